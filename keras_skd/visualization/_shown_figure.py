"""The figures that the plots return. Only this module imports matplotlib."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A `matplotlib.figure.Figure`.

    A notebook shows figures that `pyplot` did not make only if they have this
    method.
    """

    def _repr_png_(self):
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=120)
        return data.getvalue()
