//! make bench: ratios within one interleaved run.
