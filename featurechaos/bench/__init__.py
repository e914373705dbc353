"""What users would feel: reads on a config of one's own, before, during and after a fault, judged by its deadline.

Built on the drills' machinery: one open-loop load, one history, every fault undone on every path. What is
said of a bench afterwards is a pure function of its `Record`.
"""
