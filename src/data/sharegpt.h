/* data/sharegpt.h - messages written as {"from", "value"}.
 *
 * from and value become role and content, as TRL renames them. The speakers' names of such files, which no template
 * knows, become roles: human is user, gpt assistant, observation tool; a function_call, whose value spells {"name",
 * "arguments"} or a list of them, is an assistant's message with these tool_calls. Other names are roles already. */
#pragma once

#include "base/err.h"
#include "base/json.h"

/* In place; a message with neither from nor value stays as it is. `place` is what errors call it. */
bool sharegpt_convert(struct arena *arena, struct json *message, const char *place, struct err *err);
