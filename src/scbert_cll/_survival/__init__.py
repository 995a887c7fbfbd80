"""Who had an event and when: outcomes, Cox and logistic models, curves and added value.

Frames in, tables out.
"""
