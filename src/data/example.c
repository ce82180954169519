#include "data/example_int.h"
#include "data/preference.h"
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

static bool wrong_type(const char *field, const struct json *value, const char *expected, struct err *err)
{
    if (!value)
        return err_set(err, ERR_INPUT, "%s is missing: it must be %s", field, expected);
    return err_set(err, ERR_INPUT, "%s is %s: it must be %s", field, json_type_name(value), expected);
}

static bool is_type(const struct json *value, enum json_type type)
{
    return value && value->type == type;
}

/* The member `name` of the thing at `place` must be a string. */
static bool check_string(const struct json *object, const char *place, const char *name, bool is_required,
                         struct err *err)
{
    const struct json *value = json_get(object, name);
    char field[128];

    if (is_type(value, JSON_STRING) || (!is_required && json_is_null(value)))
        return true;
    snprintf(field, sizeof field, "%s.%s", place, name);
    return wrong_type(field, value, "a string", err);
}

/* OpenAI's content parts become one string, as every chat template expects. */
static bool join_parts(struct arena *arena, struct json *content, const char *place, struct err *err)
{
    struct strbuf text = {0};
    size_t index = 0;
    bool ok = false;

    for json_each (part, content) {
        struct str type = json_string_or(json_get(part, "type"), STR_NONE);
        const struct json *piece = json_get(part, "text");
        if (!str_is(type, "text")) {
            err_set(err, type.len ? ERR_UNSUPPORTED : ERR_INPUT,
                    "%s.content[%zu].type is '%.*s': only \"text\" parts can be trained on", place, index,
                    STR_ARG(str_clip(type, 40)));
            goto out;
        }
        if (!is_type(piece, JSON_STRING)) {
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

    if (is_type(content, JSON_STRING))
        return true;
    if (is_type(content, JSON_ARRAY))
        return join_parts(arena, content, place, err);
    if (may_be_null && json_is_null(content))
        return true;
    snprintf(field, sizeof field, "%s.content", place);
    return wrong_type(field, content, "a string", err);
}

/* {"name", "arguments"}: arguments are the JSON text of an object, or the object itself. Templates print them with
 * tojson, so the text is read here and the object put in its place. */
static bool check_function(struct arena *arena, struct json *function, const char *place, struct err *err)
{
    struct json *arguments, *value;
    struct str text;

    if (!is_type(function, JSON_OBJECT))
        return wrong_type(place, function, "an object", err);
    if (!check_string(function, place, "name", true, err))
        return false;
    arguments = json_get(function, "arguments");
    if (is_type(arguments, JSON_OBJECT))
        return true;
    if (!is_type(arguments, JSON_STRING))
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

    if (!is_type(call, JSON_OBJECT))
        return wrong_type(place, call, "an object", err);
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
    if (!is_type(calls, JSON_ARRAY))
        return wrong_type(field, calls, "an array", err);
    for json_each (call, calls)
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

    if (!is_type(value, JSON_STRING)) {
        char field[128];
        snprintf(field, sizeof field, "%s.role", place);
        return wrong_type(field, value, "a string", err);
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

    if (!is_type(message, JSON_OBJECT))
        return wrong_type(place, message, "an object", err);
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
        return wrong_type("tools", tools, "an array", err);
    for json_each (tool, tools) {
        struct place place = place_of("tools", index++);
        const struct json *function = json_get(tool, "function");
        if (!is_type(tool, JSON_OBJECT))
            return wrong_type(place.text, tool, "an object", err);
        if (!function)
            continue; /* some templates take the bare function */
        if (function->type != JSON_OBJECT || !is_type(json_get(function, "name"), JSON_STRING))
            return err_set(err, ERR_INPUT, "%s.function must be an object with a name", place.text);
    }
    return true;
}

struct json *example_join(struct arena *arena, const struct json *a, const struct json *b)
{
    struct json *list = arena_new(arena, struct json),
                *items = arena_new_array(arena, struct json, a->count + b->count);
    size_t count = 0;

    for json_each (item, a)
        items[count++] = *item;
    for json_each (item, b)
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
    if (!is_type(list, JSON_ARRAY))
        return wrong_type(name, list, "an array", err);
    for json_each (message, list) {
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
    if (is_type(example->tools, JSON_STRING)) {
        example->tools = json_parse(arena, example->tools->string, NULL, err);
        if (!example->tools)
            return err_prefix(err, "tools");
    }
    if (json_is_null(example->tools))
        example->tools = NULL;
    return !example->tools || check_tools(example->tools, err);
}

/* What else of the line goes into the template. */
static bool check_variables(const struct json *root, struct err *err)
{
    const struct json *kwargs = json_get(root, "chat_template_kwargs"), *documents = json_get(root, "documents");

    if (!json_is_null(kwargs) && kwargs->type != JSON_OBJECT)
        return wrong_type("chat_template_kwargs", kwargs, "an object", err);
    return json_is_null(documents) || documents->type == JSON_ARRAY ||
           wrong_type("documents", documents, "an array of objects", err);
}

static bool read_messages(struct arena *arena, struct example *example, struct err *err)
{
    const char *name = json_get(example->root, "messages") ? "messages" : "conversations";
    bool has_assistant;

    example->messages = json_get(example->root, name);
    if (!example_check_messages(arena, example->messages, name, &has_assistant, err))
        return false;
    if (!has_assistant)
        return err_set(err, ERR_INPUT, "%s holds no assistant message: there is nothing to train on", name);
    return example_read_tools(arena, example, example->root, err) && check_variables(example->root, err);
}

static bool read_string(const struct json *root, const char *name, struct str *text, struct err *err)
{
    const struct json *value = json_get(root, name);

    if (!is_type(value, JSON_STRING))
        return wrong_type(name, value, "a string", err);
    *text = value->string;
    return true;
}

static bool check_no_weights(const struct json *messages, struct err *err)
{
    for json_each (message, messages)
        if (!json_is_null(json_get(message, "weight")))
            return err_set(err, ERR_INPUT, "completion has a weight: a completion trains as a whole; use messages");
    return true;
}

/* A conversation cut in two: what is given, and what is to be learned. */
static bool read_conversation(struct arena *arena, struct example *example, struct err *err)
{
    struct json *prompt = json_get(example->root, "prompt"), *completion = json_get(example->root, "completion");
    bool has_assistant;

    if (!example_check_messages(arena, prompt, "prompt", &has_assistant, err) ||
        !example_check_messages(arena, completion, "completion", &has_assistant, err) ||
        !check_no_weights(completion, err))
        return false;
    if (prompt->count == 0 || completion->count == 0)
        return err_set(err, ERR_INPUT, "%s is empty: it needs at least one message",
                       prompt->count ? "completion" : "prompt");
    example->messages = prompt;
    example->completed = example_join(arena, prompt, completion);
    return example_read_tools(arena, example, example->root, err) && check_variables(example->root, err);
}

static bool read_prompt(struct arena *arena, struct example *example, struct err *err)
{
    const struct json *prompt = json_get(example->root, "prompt"), *completion = json_get(example->root, "completion");

    if (is_type(prompt, JSON_ARRAY) && is_type(completion, JSON_ARRAY))
        return read_conversation(arena, example, err);
    if (is_type(prompt, JSON_ARRAY) != is_type(completion, JSON_ARRAY) && prompt && completion)
        return err_set(err, ERR_INPUT, "prompt and completion must both be strings, or both be arrays of messages");
    return read_string(example->root, "prompt", &example->prompt, err) &&
           read_string(example->root, "completion", &example->completion, err);
}

static bool read_text(struct example *example, struct err *err)
{
    if (!read_string(example->root, "text", &example->text, err))
        return false;
    return example->text.len > 0 || err_set(err, ERR_INPUT, "text is empty: there is nothing to train on");
}

static bool check_ids(const struct json *ids, const char *name, struct err *err)
{
    size_t index = 0;

    if (!is_type(ids, JSON_ARRAY))
        return wrong_type(name, ids, "an array of integers", err);
    if (ids->count < 2)
        return err_set(err, ERR_INPUT, "%s has %u entries: at least 2 are needed, the first one predicts the next",
                       name, ids->count);
    for json_each (id, ids) {
        if (id->type != JSON_NUMBER || !id->is_integer || id->integer < 0 || id->integer > INT32_MAX)
            return err_set(err, ERR_INPUT, "%s[%zu] must be an integer from 0 to 2147483647", name, index);
        index++;
    }
    return true;
}

static bool check_parallel(const struct json *ids, const struct json *list, const char *name, struct err *err)
{
    if (list->type != JSON_ARRAY)
        return wrong_type(name, list, "an array of integers", err);
    if (list->count != ids->count)
        return err_set(err, ERR_INPUT, "%s has %u entries and the tokens are %u: they must be as many", name,
                       list->count, ids->count);
    return true;
}

static bool check_labels(const struct json *ids, const struct json *labels, struct err *err)
{
    const struct json *id = ids->first;
    size_t index = 0;

    if (!check_parallel(ids, labels, "labels", err))
        return false;
    for json_each (label, labels) {
        if (label->type != JSON_NUMBER || !label->is_integer ||
            (label->integer != EXAMPLE_NO_LABEL && label->integer != id->integer))
            return err_set(err, ERR_INPUT, "labels[%zu] must be -100 or the token itself, %lld", index,
                           (long long)id->integer);
        id = id->next;
        index++;
    }
    return true;
}

/* A list of 0 and 1, one for each token. */
static bool check_mask(const struct json *ids, const struct json *mask, const char *name, struct err *err)
{
    size_t index = 0;

    if (!check_parallel(ids, mask, name, err))
        return false;
    for json_each (flag, mask) {
        if (flag->type != JSON_NUMBER || !flag->is_integer || (flag->integer != 0 && flag->integer != 1))
            return err_set(err, ERR_INPUT, "%s[%zu] must be 0 or 1", name, index);
        index++;
    }
    return true;
}

/* Labels keep only what every mask marks. */
static struct json *mask_labels(struct arena *arena, const struct json *labels, const struct json *mask)
{
    struct json *masked = arena_new(arena, struct json), *item = arena_new_array(arena, struct json, labels->count);
    const struct json *flag = mask->first;

    *masked = *labels;
    masked->first = item;
    for json_each (label, labels) {
        *item = *label;
        item->integer = flag->integer ? label->integer : EXAMPLE_NO_LABEL;
        item->next = label->next ? item + 1 : NULL;
        item++;
        flag = flag->next;
    }
    return masked;
}

static bool read_token_ids(struct arena *arena, struct example *example, struct err *err)
{
    static const char *const masks[] = {"completion_mask", "assistant_masks"};
    const char *name = json_get(example->root, "token_ids") ? "token_ids" : "input_ids";
    struct json *ids = json_get(example->root, name), *labels = json_get(example->root, "labels");
    const struct json *attention = json_get(example->root, "attention_mask");

    if (!check_ids(ids, name, err))
        return false;
    example->token_ids = ids;
    if (!json_is_null(labels) && !check_labels(ids, labels, err))
        return false;
    example->labels = json_is_null(labels) ? NULL : labels;
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        const struct json *mask = json_get(example->root, masks[i]);
        if (json_is_null(mask))
            continue;
        if (!check_mask(ids, mask, masks[i], err))
            return false;
        example->labels = mask_labels(arena, example->labels ? example->labels : ids, mask);
    }
    if (json_is_null(attention))
        return true;
    if (!check_mask(ids, attention, "attention_mask", err))
        return false;
    for json_each (flag, attention)
        if (flag->integer != 1)
            return err_set(err, ERR_INPUT, "attention_mask must be all 1: leave padding out of the tokens");
    return true;
}

/* What people send from elsewhere, and what it is called here. */
static const struct {
    const char *name, *advice;
} foreign[] = {
    {"conversation", "conversations are called messages, with role and content"},
    {"instruction", "instructions are written as prompt and completion, or as messages"},
};

/* Whether the line has the member that gives the kind its name, or the one that other tools give it. */
static bool is_kind(const struct json *root, enum example_kind kind)
{
    static const char *const others[EXAMPLE_KIND_COUNT] = {[EXAMPLE_MESSAGES] = "conversations",
                                                           [EXAMPLE_TOKENS] = "input_ids"};

    return json_get(root, example_kind_name(kind)) || (others[kind] && json_get(root, others[kind]));
}

static bool find_kind(const struct json *root, enum example_kind *kind, struct err *err)
{
    bool is_preference = preference_is(root);
    int found = is_preference ? EXAMPLE_PREFERENCE : -1;

    for (int i = 0; i < EXAMPLE_PREFERENCE; i++) {
        if (is_preference && i == EXAMPLE_PROMPT) /* a preference has a prompt, too */
            continue;
        if (!is_kind(root, (enum example_kind)i))
            continue;
        if (found >= 0)
            return err_set(err, ERR_INPUT, "the line has both %s and %s: it must be of one kind",
                           example_kind_name((enum example_kind)found), example_kind_name((enum example_kind)i));
        found = i;
    }
    if (found < 0 && json_get(root, "completion"))
        return err_set(err, ERR_INPUT, "completion stands there without prompt");
    for (size_t i = 0; found < 0 && i < sizeof foreign / sizeof *foreign; i++)
        if (json_get(root, foreign[i].name))
            return err_set(err, ERR_INPUT, "%s: %s", foreign[i].name, foreign[i].advice);
    if (found < 0)
        return err_set(err, ERR_INPUT, "the line has none of messages, prompt, text, token_ids and chosen");
    *kind = (enum example_kind)found;
    return true;
}

/* The reader counts lines within what it is given; here that is one line, whose number the caller knows. */
static void drop_line_number(struct err *err)
{
    static const char before[] = "JSON, line 1 column";

    if (err && strncmp(err->text, before, sizeof before - 1) == 0)
        memmove(err->text + 6, err->text + 13, strlen(err->text + 13) + 1);
}

bool example_parse(struct arena *arena, struct str line, struct example *example, struct err *err)
{
    struct str twice;

    *example = (struct example){.root = json_parse(arena, line, NULL, err)};
    if (!example->root) {
        drop_line_number(err);
        return false;
    }
    if (example->root->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "the line is %s: it must be a JSON object", json_type_name(example->root));
    twice = json_duplicate(example->root);
    if (twice.at)
        return err_set(err, ERR_INPUT, "%.*s stands there twice", STR_ARG(str_clip(twice, 40)));
    if (!find_kind(example->root, &example->kind, err))
        return false;
    switch (example->kind) {
    case EXAMPLE_MESSAGES:
        return read_messages(arena, example, err);
    case EXAMPLE_PROMPT:
        return read_prompt(arena, example, err);
    case EXAMPLE_TEXT:
        return read_text(example, err);
    case EXAMPLE_PREFERENCE:
        return preference_read(arena, example, err);
    default:
        return read_token_ids(arena, example, err);
    }
}

const char *example_kind_name(enum example_kind kind)
{
    static const char *const names[] = {
#define EXAMPLE_NAME(name, text) text,
        EXAMPLE_KINDS(EXAMPLE_NAME)
#undef EXAMPLE_NAME
    };
    return names[kind];
}

int example_kind_sequences(enum example_kind kind)
{
    return kind == EXAMPLE_PREFERENCE ? 2 : 1;
}
