#include "data/example_int.h"
#include "data/sharegpt.h"

#include <stdio.h>
#include <string.h>

/* Where in the line a check stands: "messages[2].tool_calls[0]". */
struct place {
    char text[96];
};

/* Written by hand: every message of every line has one, and few are ever read. */
static struct place place_of(const char *name, size_t index)
{
    struct place place;
    size_t len = strlen(name), digits = 1;
    char *end;

    for (size_t rest = index; rest >= 10; rest /= 10)
        digits++;
    ASSERT(len + digits + 3 <= sizeof place.text);
    memcpy(place.text, name, len);
    end = place.text + len + digits + 2;
    *end-- = '\0';
    *end-- = ']';
    for (; digits > 0; digits--, index /= 10)
        *end-- = (char)('0' + index % 10);
    *end = '[';
    return place;
}

/* The member `name` of the thing at `place` must be a string. */
static bool check_string(const struct json *object, const char *place, const char *name, bool is_required,
                         struct err *err)
{
    const struct json *value = json_get(object, name);
    char field[128];

    if (example_is(value, JSON_STRING) || (!is_required && json_is_null(value)))
        return true;
    snprintf(field, sizeof field, "%s.%s", place, name);
    return example_wrong_type(field, value, "a string", err);
}

/* OpenAI's content parts become one string, as every chat template expects. */
static bool join_parts(struct arena *arena, struct json *content, const char *place, struct err *err)
{
    struct strbuf text = {0};
    size_t index = 0;
    bool ok = false;

    json_each(part, content) {
        struct str type = json_string_or(json_get(part, "type"), STR_NONE);
        const struct json *piece = json_get(part, "text");
        if (!str_is(type, "text")) {
            err_set(err, type.len ? ERR_UNSUPPORTED : ERR_INPUT,
                    "%s.content[%zu].type is '%.*s': only \"text\" parts can be trained on", place, index,
                    STR_ARG(str_clip(type, 40)));
            goto out;
        }
        if (!example_is(piece, JSON_STRING)) {
            err_set(err, ERR_INPUT, "%s.content[%zu].text must be a string", place, index);
            goto out;
        }
        strbuf_add_str(&text, piece->string);
        index++;
    }
    content->type = JSON_STRING;
    content->string = (struct str){arena_copy(arena, text.at, text.len), text.len};
    ok = true;
out:
    strbuf_deinit(&text);
    return ok;
}

static bool check_content(struct arena *arena, struct json *message, const char *place, bool may_be_null,
                          struct err *err)
{
    struct json *content = json_get(message, "content");
    char field[128];

    if (example_is(content, JSON_STRING))
        return true;
    if (example_is(content, JSON_ARRAY))
        return join_parts(arena, content, place, err);
    if (may_be_null && json_is_null(content))
        return true;
    snprintf(field, sizeof field, "%s.content", place);
    return example_wrong_type(field, content, "a string", err);
}

/* {"name", "arguments"}: arguments are the JSON text of an object, or the object itself. Templates print them with
 * tojson, so the text is read here and the object put in its place. */
static bool check_function(struct arena *arena, struct json *function, const char *place, struct err *err)
{
    struct json *arguments, *value;
    struct str text;

    if (!example_is(function, JSON_OBJECT))
        return example_wrong_type(place, function, "an object", err);
    if (!check_string(function, place, "name", true, err))
        return false;
    arguments = json_get(function, "arguments");
    if (example_is(arguments, JSON_OBJECT))
        return true;
    if (!example_is(arguments, JSON_STRING))
        return err_set(err, ERR_INPUT, "%s.arguments must be a string that holds a JSON object", place);
    text = str_trim(arguments->string);
    value = json_parse(arena, text.len ? text : STR("{}"), NULL, err);
    if (!value)
        return err_prefix(err, "%s.arguments", place);
    if (value->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "%s.arguments holds %s: it must hold a JSON object", place,
                       json_type_name(value));
    value->key = arguments->key;
    value->next = arguments->next;
    *arguments = *value;
    return true;
}

static bool check_tool_call(struct arena *arena, struct json *call, const char *place, struct err *err)
{
    char field[128];
    struct str type;

    if (!example_is(call, JSON_OBJECT))
        return example_wrong_type(place, call, "an object", err);
    if (!check_string(call, place, "id", false, err))
        return false;
    type = json_string_or(json_get(call, "type"), STR("function"));
    if (!str_is(type, "function"))
        return err_set(err, ERR_INPUT, "%s.type is '%.*s': it must be \"function\"", place,
                       STR_ARG(str_clip(type, 40)));
    if (!json_get(call, "function") && json_get(call, "name"))
        return check_function(arena, call, place, err); /* templates take the bare function, too */
    snprintf(field, sizeof field, "%s.function", place);
    return check_function(arena, json_get(call, "function"), field, err);
}

static bool check_tool_calls(struct arena *arena, struct json *calls, const char *place, struct err *err)
{
    char field[128];
    size_t index = 0;

    snprintf(field, sizeof field, "%s.tool_calls", place);
    if (!example_is(calls, JSON_ARRAY))
        return example_wrong_type(field, calls, "an array", err);
    json_each(call, calls)
        if (!check_tool_call(arena, call, place_of(field, index++).text, err))
            return false;
    return true;
}

static bool check_weight(const struct json *message, bool is_assistant, const char *place, struct err *err)
{
    const struct json *weight = json_get(message, "weight");

    if (json_is_null(weight))
        return true;
    if (!is_assistant)
        return err_set(err, ERR_INPUT, "%s.weight: only assistant messages have a weight", place);
    if (weight->type == JSON_NUMBER && (json_number(weight) == 0 || json_number(weight) == 1))
        return true;
    return err_set(
        err, ERR_INPUT, "%s.weight is %.*s: it must be 0 or 1", place,
        STR_ARG(str_clip(weight->type == JSON_NUMBER ? weight->string : str_of(json_type_name(weight)), 40)));
}

static bool check_assistant(struct arena *arena, struct json *message, const char *place, struct err *err)
{
    struct json *calls = json_get(message, "tool_calls"), *function = json_get(message, "function_call");
    char field[128];
    bool has_calls = !json_is_null(calls) || !json_is_null(function);

    if (!json_is_null(calls) && !check_tool_calls(arena, calls, place, err))
        return false;
    snprintf(field, sizeof field, "%s.function_call", place);
    if (!json_is_null(function) && !check_function(arena, function, field, err))
        return false;
    return check_content(arena, message, place, has_calls, err);
}

static const char *const role_names[] = {"system", "developer", "user", "assistant", "tool", "function"};

static bool check_role(const struct json *message, const char *place, struct str *role, struct err *err)
{
    const struct json *value = json_get(message, "role");
    size_t count = sizeof role_names / sizeof *role_names;

    if (!example_is(value, JSON_STRING)) {
        char field[128];
        snprintf(field, sizeof field, "%s.role", place);
        return example_wrong_type(field, value, "a string", err);
    }
    *role = value->string;
    for (size_t i = 0; i < count; i++)
        if (str_is(*role, role_names[i]))
            return true;
    return err_set(err, ERR_INPUT, "%s.role is '%.*s': it must be system, developer, user, assistant, tool or function",
                   place, STR_ARG(str_clip(*role, 40)));
}

static bool check_message(struct arena *arena, struct json *message, const char *place, bool *is_assistant,
                          struct err *err)
{
    struct str twice, role;

    if (!example_is(message, JSON_OBJECT))
        return example_wrong_type(place, message, "an object", err);
    twice = json_duplicate(message);
    if (twice.at)
        return err_set(err, ERR_INPUT, "%s.%.*s stands there twice", place, STR_ARG(str_clip(twice, 40)));
    if (!sharegpt_convert(arena, message, place, err) || !check_role(message, place, &role, err))
        return false;
    *is_assistant = str_is(role, "assistant");
    if (!check_weight(message, *is_assistant, place, err))
        return false;
    if (*is_assistant)
        return check_assistant(arena, message, place, err);
    if (json_get(message, "tool_calls") && !json_is_null(json_get(message, "tool_calls")))
        return err_set(err, ERR_INPUT, "%s.tool_calls: only assistant messages call tools", place);
    if (str_is(role, "tool") && !check_string(message, place, "tool_call_id", false, err))
        return false;
    if (str_is(role, "function") && !check_string(message, place, "name", true, err))
        return false;
    return check_content(arena, message, place, false, err);
}

static bool check_tools(const struct json *tools, struct err *err)
{
    size_t index = 0;

    if (tools->type != JSON_ARRAY)
        return example_wrong_type("tools", tools, "an array", err);
    json_each(tool, tools) {
        struct place place = place_of("tools", index++);
        const struct json *function = json_get(tool, "function");
        if (!example_is(tool, JSON_OBJECT))
            return example_wrong_type(place.text, tool, "an object", err);
        if (!function)
            continue; /* some templates take the bare function */
        if (function->type != JSON_OBJECT || !example_is(json_get(function, "name"), JSON_STRING))
            return err_set(err, ERR_INPUT, "%s.function must be an object with a name", place.text);
    }
    return true;
}

struct json *example_join(struct arena *arena, const struct json *a, const struct json *b)
{
    struct json *list = arena_new(arena, struct json),
                *items = arena_new_array(arena, struct json, a->count + b->count);
    size_t count = 0;

    json_each(item, a)
        items[count++] = *item;
    json_each(item, b)
        items[count++] = *item;
    for (size_t i = 0; i < count; i++)
        items[i].next = i + 1 < count ? &items[i + 1] : NULL;
    *list = (struct json){.type = JSON_ARRAY, .count = (uint32_t)count, .first = count ? items : NULL};
    return list;
}

bool example_check_messages(struct arena *arena, const struct json *list, const char *name, bool *has_assistant,
                            struct err *err)
{
    size_t index = 0;

    *has_assistant = false;
    if (!example_is(list, JSON_ARRAY))
        return example_wrong_type(name, list, "an array", err);
    json_each(message, list) {
        bool is_assistant = false;
        if (!check_message(arena, message, place_of(name, index++).text, &is_assistant, err))
            return false;
        *has_assistant |= is_assistant;
    }
    return true;
}

/* Tools may be JSON text: tables of one type a column keep them so. */
bool example_read_tools(struct arena *arena, struct example *example, const struct json *holder, struct err *err)
{
    example->tools = json_get(holder, "tools");
    if (example_is(example->tools, JSON_STRING)) {
        example->tools = json_parse(arena, example->tools->string, NULL, err);
        if (!example->tools)
            return err_prefix(err, "tools");
    }
    if (json_is_null(example->tools))
        example->tools = NULL;
    return !example->tools || check_tools(example->tools, err);
}
