"""The inverted index of a store: from values in metadata, and from pieces and words of documents, to rows.

    layout   keys and payloads
    fold     takes rows in, inside a write
    metadata the values of one chunk of rows: postings and numbers
    texts    the documents of one chunk of rows: grams and words
    reader   answers
    verify   compares it with the records

Rows are cut into chunks of 65,536; every key belongs to one chunk, so that what a write touches does not depend on the size of the
table. Rows from ``folded`` on are not in the index yet, and it knows of rows in table ``pending`` what they were: a reader looks at
the records of both. A write that finds FOLD_ROWS of them takes them in.
"""
