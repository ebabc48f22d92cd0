"""From tasks to batches of token arrays.

examples.py   a task or mixture -> Example records
row_examples.py  the same of a task of ours, from its rows
seqio_examples.py  the same of a task registered with SeqIO; imports TensorFlow
opening.py    training data: in memory, or tokenised into the local cache; stochastic tasks
stochastic.py which tasks draw at random, and their seeds; imports TensorFlow
datasets.py   what a configuration asks for, through examples.py and opening.py
audit*.py     what is wrong or noteworthy in the data, through mixtures
records.py    the records that travel between the stages
tables.py     examples by number, wherever they lie
stores.py     tables on disk
packing.py    which example goes into which row of a batch
epochs.py     the plan of a training epoch: order, mixture, references, rows
batching.py   training and evaluation batches, and the position in the data
prefetching.py  the next batches, made ahead in a thread
"""
