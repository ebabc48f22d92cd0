"""From SeqIO tasks to batches of token arrays.

    examples.py   a SeqIO task or mixture -> Example records; the only file that imports TensorFlow
    records.py    the records that travel between the stages
    packing.py    which example goes into which row of a batch
    epochs.py     the plan of a training epoch: order, mixture, references, rows
    batching.py   training and evaluation batches, the position in the data, prefetch
"""
