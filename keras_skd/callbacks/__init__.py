"""What `fit` does beside training: callbacks for a `Distiller`."""

from keras_skd.callbacks._backup_and_restore import BackupAndRestore
