"""Figures of CT slices that keep their grey levels, and sliders that work with and without a kernel."""
