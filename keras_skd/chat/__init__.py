"""Chat templates: from lists of messages to the text that a model reads."""

from keras_skd.chat._chat_template import ChatTemplate
