/* text/training_template.h - what published chat templates lack for training.
 *
 * Few templates say which of their output an assistant wrote, and those of reasoning models drop what was thought in
 * earlier turns, so that a conversation of several turns holds turns that no model would have written. For templates
 * known by the hash of their text this module makes the variant to train with: {% generation %} marks around each turn
 * and its end, and reasoning kept in every turn. Texts and marks are those of TRL's training templates (1.16), which
 * tests/parity compares over generated conversations.
 *
 * Where a mark begins and ends is TRL's choice, template by template: the newline behind <|im_end|> trains with Qwen,
 * gpt-oss and DeepSeek mark the header of the turn, too. */
#pragma once

#include "base/arena.h"
#include "base/str.h"

/* The name of the template that `source` is, with its training variant (in the arena) in *training; NULL: not known. */
const char *training_template_find(struct str source, struct arena *arena, struct str *training);
