"""The overlap protocol, values in and values out: normalise, hash to curve, blind, sign and check batches, add up.

Who learns what
    ==========  ===================================================================  ===============================
    party       learns                                                               never
    ==========  ===================================================================  ===============================
    partner     its own rows; of every other partner, for each label and each        which of its customers another
                delta, how many rows there are, but for what ``pad_to`` hides;       partner has, nor how many (an
                with several key types, which of those rows share an identifier;     offer does say: by consent)
                the tables that everybody is given
    gateway     the same sizes, and decoys as declared; tokens with their label,     identifiers; any partner's key;
                and so exact counts of every region; with a delta, which token       which token has which handle,
                went or changed its label; with several key types, which rows        but for people who stand out in
                share a token; for offers, handles and their country                 both indexes (below)
    marketing   noisy numbers with intervals, the declared labels, prices; that      tokens, handles, exact numbers
                somebody came, went or changed between two tables of an epoch
    ==========  ===================================================================  ===============================

    Exact counts stay inside ``gateway.overlap``. What is told of them passes one call that draws noise, after it was
    paid for: two alliances with nothing in common but the drawn numbers, and in which nobody comes, goes or changes,
    look the same to everybody outside (``tests/property/test_question_property.py``). That something changed shows
    without noise, though not whose row: a table does not agree with one of before a change (``agrees_with``), and while
    a partner cannot confirm its withdrawals, or is slow, fresh answers that policy and budget allow are refused, or
    slow (``gateway.overlap.withdrawals``).

Sizes
    Set sizes are not private. One batch travels for each combination of a partner's labels, so other partners see how
    many of its customers are, say, strategic and hold a gold card, with the batch's decoys (``decoys``) and rounded up
    to ``pad_to``; where nothing is rounded, the decoys can be worked out. A label that nobody has is sent too. Decoys
    hide nothing from the gateway: the partner declares them, so that they can be taken out of the counts, and they are
    taken out whatever is there: a check that real rows are not called decoys would tell their origin who else has them.

Two indexes
    Tokens of the two are under other keys and of another hash domain. But the gateway sees both: where a region holds
    one person in each, where with several key types somebody's rows hang together as nobody else's do, or where one
    person alone changes in both at once, it can tell which token goes with which handle.

Collusion
    A token is H(identifier)^(k1 k2 ... kn), one key a partner, fresh for every epoch and index. One honest partner's
    key keeps tokens from being reversed, by the gateway and all other partners together. A partner's own rows travel
    under another key of its own (``own_key``), which the gateway turns into that one at the end of their way.

    - Gateway and one partner can put guesses into that partner's own signed batches, up to the quota that the others
      set for an epoch, in each of the epochs that they take part in, and see which come out equal to others' tokens:
      for those people they learn at which partners they are, and under which labels.
    - Partners without the gateway learn nothing from rows beyond sizes, whatever keys they put together: finished
      tokens do not come back to them, and what they see of a third partner's rows is under a key that nothing else is
      under (``tests/sim/test_overlap_collusion.py``).
    - A hop that does not give back what it was given could make one person count many times. Decoys show it, with a
      chance that grows with the rows: it is found out, not prevented.
    - All partners' keys together reverse everything: identifiers of low entropy, such as phone numbers, can be tried
      one by one. A partner deletes an epoch's keys when the next one is complete.
    - A partner that lies about its set or its decoys is not found out. It learns what the answers say, which is noisy:
      where hops are honest, a crafted set of one moves a number by one (``tests/sim/test_question_attacks.py`` measures
      what that tells).

Which key type
    With one key type a person with one identifier moves one cell by one, which needs the least noise. With several
    (``any``, or joined by ``+``) rows that share any identifier are one person; that costs noise for sqrt(2) times as
    many identifiers as a person may have, at least one of each type: for two types 2.8 times the noise, for three 4.2
    times. On 5,000 known pairs with errors in their fields it found 95.3 % where the best single key found 91.2 %; on
    251 clusters 41.4 % of the pairs against 33.6 %; with no wrong pair in either. So: one key type for small cells and
    many labels, several where people are many and identifiers poor. The argument, the alternatives and the whole table
    are in ``matching``.

Numbers
    A table's cells are exclusive regions, so each token is in one cell (``questions``). Intervals, of numbers that
    reached the threshold, are in ``answers``, rules between products in ``links``. Whatever can be read off a released
    table is free, and never changes.
"""
