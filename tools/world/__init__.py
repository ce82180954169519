"""A small world in simple English: its words, its grammar, its stories and its talk.

lexicon.py has the words, rules.py the sentences, grammar.py writes and recognises both, stories.py keeps the
state of a small world while it writes about it, dialogues.py asks and answers. Standard library only; the same
seed gives the same bytes on every Python from 3.8 on.
"""
