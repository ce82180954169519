#include "data/sharegpt.h"

static const struct {
    const char *speaker, *role;
} roles[] = {
    {"human", "user"},
    {"gpt", "assistant"},
    {"observation", "tool"},
};

/* {"type": "function", "function": {…}} around what was called. */
static struct json *make_call(struct arena *arena, const struct json *function)
{
    struct json *call = arena_new(arena, struct json), *members = arena_new_array(arena, struct json, 2);

    members[0] = (struct json){
        .type = JSON_STRING, .key = STR("type"), .string = STR("function"), .next = &members[1]};
    members[1] = *function;
    members[1].key = STR("function");
    members[1].next = NULL;
    *call = (struct json){.type = JSON_OBJECT, .count = 2, .first = members};
    return call;
}

static bool convert_calls(struct arena *arena, struct json *value, const char *place, struct err *err)
{
    struct json *parsed, **link, *first = NULL;
    uint32_t count = 0;

    if (value->type != JSON_STRING)
        return err_set(err, ERR_INPUT, "%s.value is %s: a function_call is a string that holds JSON", place,
                       json_type_name(value));
    parsed = json_parse(arena, value->string, NULL, err);
    if (!parsed)
        return err_prefix(err, "%s.value", place);
    link = &first;
    if (parsed->type == JSON_ARRAY) {
        json_each(function, parsed) {
            *link = make_call(arena, function);
            link = &(*link)->next;
            count++;
        }
    } else {
        first = make_call(arena, parsed);
        count = 1;
    }
    *value = (struct json){
        .type = JSON_ARRAY, .count = count, .first = first, .key = STR("tool_calls"), .next = value->next};
    return true;
}

bool sharegpt_convert(struct arena *arena, struct json *message, const char *place, struct err *err)
{
    struct json *from = json_get(message, "from"), *value = json_get(message, "value");

    if ((from && json_get(message, "role")) || (value && json_get(message, "content")))
        return err_set(err, ERR_INPUT, "%s has both %s", place,
                       from && json_get(message, "role") ? "from and role" : "value and content");
    if (from)
        from->key = STR("role");
    if (value)
        value->key = STR("content");
    if (!json_has_type(from, JSON_STRING))
        return true;
    if (str_is(from->string, "function_call")) {
        from->string = STR("assistant");
        return !value || convert_calls(arena, value, place, err);
    }
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (str_is(from->string, roles[i].speaker))
            from->string = str_of(roles[i].role);
    return true;
}
