"""The empirical audit of a training run: is the privacy that is claimed at odds with what can be measured?"""
