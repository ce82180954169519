/* data/example_int.h - checks of a line's members that its kinds share. They bring messages into the shape that chat
 * templates expect, see example.h. */
#pragma once

#include "data/example.h"

/* `name` is what errors call the list. */
bool example_check_messages(struct arena *arena, const struct json *list, const char *name, bool *has_assistant,
                            struct err *err);
/* example->tools from the member `tools` of `holder`, NULL when it is absent or null; JSON text is read. */
bool example_read_tools(struct arena *arena, struct example *example, const struct json *holder, struct err *err);
/* Ids with their labels and masks, which become labels: what one of them leaves out carries none. */
bool example_read_token_ids(struct arena *arena, struct example *example, struct err *err);
/* False when it is absent. */
static inline bool example_is(const struct json *value, enum json_type type)
{
    return value && value->type == type;
}
/* Always false: `field` is absent, or not what is expected ("an array"). */
bool example_wrong_type(const char *field, const struct json *value, const char *expected, struct err *err);
/* The items of a and b in one array; nodes are copied, what they hold is shared. */
struct json *example_join(struct arena *arena, const struct json *a, const struct json *b);
