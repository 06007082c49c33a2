"""From a trained run to maps of any picture: in Python, over folders and over videos.

::

    predict = plait.load("runs/shared")         # or "hf:org/name"
    made = predict("photo.jpg")
    made["depth"].values                        # float32 [H, W], metres
    made["semantic"].classes[3], made["semantic"].picture
"""

from plait.inference.files import predict_files
from plait.inference.load import load
from plait.inference.pictures import as_picture
from plait.inference.prediction import PredictedMap, Prediction
from plait.inference.predictor import Predictor
from plait.inference.sizing import Sizing

__all__ = ["PredictedMap", "Prediction", "Predictor", "Sizing", "as_picture", "load", "predict_files"]
