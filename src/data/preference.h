/* data/preference.h - a line that prefers one completion to another, in the shapes that people have.
 *
 *   OpenAI's    {"input": {"messages": […], "tools": […], "parallel_tool_calls": true},
 *                "preferred_output": [message, …], "non_preferred_output": [message, …]}
 *               (or preferred_completion and non_preferred_completion)
 *   TRL's       {"prompt", "chosen", "rejected"}: three texts or three lists of messages; tools beside them
 *   without prompt  {"chosen", "rejected"}: the prompt is what both begin with
 *
 * The implicit prompt is TRL's: the messages up to the first that differs; of texts the characters up to there, without
 * a space that would end the prompt. Where one is the beginning of the other, the last message (or character) of the
 * shorter one belongs to its completion. Messages are equal when they have the same members in the same order. */
#pragma once

#include "data/example.h"

/* Whether the line's members make it a preference. */
bool preference_is(const struct json *root);
/* Fills example->preference, ->messages (the prompt's) and ->tools from example->root. */
bool preference_read(struct arena *arena, struct example *example, struct err *err);
