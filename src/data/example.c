#include "data/example_int.h"
#include "data/preference.h"

#include <string.h>

bool example_wrong_type(const char *field, const struct json *value, const char *expected, struct err *err)
{
    if (!value)
        return err_set(err, ERR_INPUT, "%s is missing: it must be %s", field, expected);
    return err_set(err, ERR_INPUT, "%s is %s: it must be %s", field, json_type_name(value), expected);
}

/* What else of the line goes into the template. */
static bool check_variables(const struct json *root, struct err *err)
{
    const struct json *kwargs = json_get(root, "chat_template_kwargs"), *documents = json_get(root, "documents");

    if (!json_is_null(kwargs) && kwargs->type != JSON_OBJECT)
        return example_wrong_type("chat_template_kwargs", kwargs, "an object", err);
    return json_is_null(documents) || documents->type == JSON_ARRAY ||
           example_wrong_type("documents", documents, "an array of objects", err);
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

    if (!example_is(value, JSON_STRING))
        return example_wrong_type(name, value, "a string", err);
    *text = value->string;
    return true;
}

static bool check_no_weights(const struct json *messages, struct err *err)
{
    json_each(message, messages)
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

    if (example_is(prompt, JSON_ARRAY) && example_is(completion, JSON_ARRAY))
        return read_conversation(arena, example, err);
    if (example_is(prompt, JSON_ARRAY) != example_is(completion, JSON_ARRAY) && prompt && completion)
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
        return example_read_token_ids(arena, example, err);
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
