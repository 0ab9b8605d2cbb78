"""Digits that training never saw: a CNN of drawings and the pen of another hand, for twins of textsiam."""

from unseen_digits.drawings import DrawingConfig, DrawingResNet, drawing_tower, enclosed, normal_form
from unseen_digits.pen import Pen

__all__ = ["DrawingConfig", "DrawingResNet", "Pen", "drawing_tower", "enclosed", "normal_form"]
