/* data/example_int.h - checks of a line's members that its kinds share. They bring messages into the shape that chat
 * templates expect, see example.h. */
#pragma once

#include "data/example.h"

/* `name` is what errors call the list. */
bool example_check_messages(struct arena *arena, const struct json *list, const char *name, bool *has_assistant,
                            struct err *err);
/* example->tools from the member `tools` of `holder`, NULL when it is absent or null; JSON text is read. */
bool example_read_tools(struct arena *arena, struct example *example, const struct json *holder, struct err *err);
/* The items of a and b in one array; nodes are copied, what they hold is shared. */
struct json *example_join(struct arena *arena, const struct json *a, const struct json *b);
