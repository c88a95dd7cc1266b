"""Layer 2: the statistics of ablation studies, from paired differences to verdicts.

`designs` says which arms are trained and which differences are of interest, `power` how many units
that takes, `paired` describes the differences, `sequential` lets one look at them after every
unit, `multiple` at several comparisons at once, and `verdicts` decides.
"""
