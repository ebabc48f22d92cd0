"""From tasks to batches of token arrays.

opening.py    a task or mixture -> its examples, in memory or tokenised into the local cache
datasets.py   the same, and training batches, as a configuration asks for them
examples.py   the tasks behind a name -> Example records, one after the other
row_examples.py  the same of a task of ours, from its rows
seqio_examples.py  the same of a task registered with SeqIO; imports TensorFlow
stochastic.py which tasks draw at random, and their seeds; imports TensorFlow
records.py    the record that travels between the stages
tables.py     examples by number, wherever they lie; the members of a mixture
stores.py     tables on disk
packing.py    which example goes into which row of a batch
epochs.py     the plan of a training epoch: order, mixture, references, rows
batching.py   training and evaluation batches, and the position in the data
prefetching.py  the next batches, made ahead in a thread
"""
