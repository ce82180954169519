#include "api/chat_request.h"

#include <math.h>
#include <string.h>

enum { STOP_MAX = 4, MESSAGES_MAX = 10000, PROMPTS_MAX = 128 };

struct reader {
    struct arena *arena;
    struct chat_fields *fields;
    struct problems *problems;
};

static void wrong(struct reader *r, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void wrong(struct reader *r, const char *name, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    problems_add(r->problems, "value_error", name, NULL, NULL, "%s", arena_vprintf(r->arena, format, args));
    va_end(args);
}

static double number(struct reader *r, const struct json *value, double min, double max)
{
    double v = json_number_or(value, NAN);

    if (v >= min && v <= max)
        return v;
    wrong(r, str_copy(r->arena, value->key), "%.*s must be a number from %g to %g", STR_ARG(value->key), min, max);
    return min;
}

static int64_t integer(struct reader *r, const struct json *value, int64_t min, int64_t max)
{
    int64_t v = json_integer_or(value, min - 1);

    if (v >= min && v <= max)
        return v;
    wrong(r, str_copy(r->arena, value->key), "%.*s must be an integer from %lld to %lld", STR_ARG(value->key),
          (long long)min, (long long)max);
    return min;
}

static bool boolean(struct reader *r, const struct json *value)
{
    if (value->type == JSON_BOOL)
        return value->boolean;
    wrong(r, str_copy(r->arena, value->key), "%.*s must be true or false", STR_ARG(value->key));
    return false;
}

/* --- fields --- */

static void read_stop(struct reader *r, const struct json *value)
{
    struct chat_fields *f = r->fields;

    f->stop_count = 0; /* a body may name the field again; it is refused in the end, but read until then */
    if (value->type == JSON_STRING && value->string.len > 0) {
        f->stop[f->stop_count++] = value->string;
        return;
    }
    if (value->type != JSON_ARRAY || value->count > STOP_MAX) {
        wrong(r, "stop", "stop must be a string or up to %d strings", STOP_MAX);
        return;
    }
    json_each(item, value) {
        if (item->type != JSON_STRING || item->string.len == 0)
            wrong(r, "stop", "stop must be a string or up to %d strings, none empty", STOP_MAX);
        else
            f->stop[f->stop_count++] = item->string;
    }
}

static void read_stream_options(struct reader *r, const struct json *value)
{
    const struct json *usage = json_get(value, "include_usage");

    if (value->type != JSON_OBJECT)
        wrong(r, "stream_options", "stream_options must be an object");
    else if (!json_is_null(usage) && usage->type != JSON_BOOL)
        wrong(r, "stream_options", "stream_options: include_usage must be true or false");
    else
        r->fields->has_usage = json_bool_or(usage, false);
}

/* Content given as a list of text parts becomes one string, as templates expect it. NULL: it is no such list. */
static const struct json *join_parts(struct reader *r, const struct json *content)
{
    struct json *joined = arena_new(r->arena, struct json);
    struct strbuf text = {0};
    bool is_text = content->type == JSON_ARRAY && content->count > 0;

    json_each(part, is_text ? content : NULL) {
        const struct json *piece = json_get(part, "text");
        is_text &= json_is(json_get(part, "type"), "text") && piece &&
                   piece->type == JSON_STRING;
        strbuf_add_str(&text, json_string_or(piece, STR_NONE));
    }
    *joined = (struct json){.type = JSON_STRING, .string = {arena_copy(r->arena, text.at, text.len), text.len}};
    strbuf_deinit(&text);
    return is_text ? joined : NULL;
}

/* A copy with another content, which keeps its key and its place. */
static struct json with_content(struct reader *r, const struct json *message, const struct json *content)
{
    struct json copy = *message, *member = arena_new_array(r->arena, struct json, message->count);

    copy.first = member;
    json_each(old, message) {
        *member = str_is(old->key, "content") ? *content : *old;
        member->key = old->key;
        member->next = old->next ? member + 1 : NULL;
        member++;
    }
    return copy;
}

static bool is_role(struct str role)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (str_is(role, roles[i]))
            return true;
    return false;
}

/* The other members that a message may have, for the template to read. */
static void check_members(struct reader *r, const struct json *message, int index)
{
    static const struct {
        const char *name, *type_name;
        enum json_type type;
    } members[] = {{"name", "a string", JSON_STRING},
                   {"tool_call_id", "a string", JSON_STRING},
                   {"tool_calls", "a list", JSON_ARRAY}};

    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        const struct json *value = json_get(message, members[i].name);
        if (!json_is_null(value) && value->type != members[i].type)
            problems_add(r->problems, "value_error", "messages", arena_printf(r->arena, "%d", index), members[i].name,
                         "messages[%d].%s must be %s", index, members[i].name, members[i].type_name);
    }
}

static void read_messages(struct reader *r, const struct json *value)
{
    struct json *list = arena_new(r->arena, struct json), *copy;
    int index = 0;

    if (value->type != JSON_ARRAY || value->count == 0 || value->count > MESSAGES_MAX) {
        wrong(r, "messages", "messages must be a list of 1 to %d messages", MESSAGES_MAX);
        return;
    }
    copy = arena_new_array(r->arena, struct json, value->count);
    *list = *value;
    list->first = copy;
    json_each(message, value) {
        const struct json *content = json_get(message, "content");
        const struct json *joined =
            json_is_null(content) || content->type == JSON_STRING ? content : join_parts(r, content);
        if (!is_role(json_string_or(json_get(message, "role"), STR_NONE)))
            problems_add(r->problems, "enum", "messages", arena_printf(r->arena, "%d", index), "role",
                         "messages[%d].role must be system, developer, user, assistant or tool", index);
        else if (!json_is_null(content) && !joined)
            problems_add(r->problems, "string_type", "messages", arena_printf(r->arena, "%d", index), "content",
                         "messages[%d].content must be a string or a list of text parts", index);
        check_members(r, message, index);
        copy[index] = joined && joined != content ? with_content(r, message, joined) : *message;
        copy[index].next = message->next ? &copy[index + 1] : NULL;
        index++;
    }
    r->fields->messages = list;
}

static void read_prompt(struct reader *r, const struct json *value)
{
    struct chat_fields *f = r->fields;

    f->prompt_count = 0;
    if (value->type == JSON_STRING ||
        (value->type == JSON_ARRAY && value->first && value->first->type == JSON_NUMBER)) {
        f->prompts[f->prompt_count++] = value;
        return;
    }
    if (value->type != JSON_ARRAY || value->count == 0 || value->count > PROMPTS_MAX) {
        wrong(r, "prompt", "prompt must be a string, a list of strings or a list of token ids");
        return;
    }
    json_each(item, value) {
        bool is_ids = item->type == JSON_ARRAY && item->first && item->first->type == JSON_NUMBER;
        if (item->type != JSON_STRING && !is_ids) {
            wrong(r, "prompt", "prompt must be a string, a list of strings or a list of token ids");
            return;
        }
        f->prompts[f->prompt_count++] = item;
    }
}

static void read_chat_logprobs(struct reader *r, const struct json *body)
{
    const struct json *wanted = json_get(body, "logprobs"), *top = json_get(body, "top_logprobs");

    if (!json_is_null(wanted) && boolean(r, wanted))
        r->fields->logprobs = json_is_null(top) ? 0 : integer(r, top, 0, 20);
    else if (!json_is_null(top))
        wrong(r, "top_logprobs", "top_logprobs needs logprobs: true");
}

static void read_response_format(struct reader *r, const struct json *value)
{
    if (!json_is(json_get(value, "type"), "text"))
        wrong(r, "response_format", "response_format: only {\"type\": \"text\"} is supported");
}

/* Fields whose neutral value is fine and whose every other value is not there. */
static void refuse_unless_neutral(struct reader *r, const struct json *value)
{
    bool is_neutral =
        (value->type == JSON_NUMBER && json_number(value) == 0) || (value->type == JSON_ARRAY && value->count == 0) ||
        (value->type == JSON_OBJECT && value->count == 0) || (value->type == JSON_BOOL && !value->boolean);

    if (str_is(value->key, "best_of"))
        is_neutral = json_integer_or(value, 0) == 1;
    if (str_is(value->key, "tool_choice"))
        is_neutral = json_is(value, "none") || json_is(value, "auto");
    if (!is_neutral)
        problems_add(r->problems, "unsupported", str_copy(r->arena, value->key), NULL, NULL, "%.*s is not supported",
                     STR_ARG(value->key));
}

static bool is_one_of(struct str name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (str_is(name, names[i]))
            return true;
    return false;
}

#define IS_ONE_OF(name, names) is_one_of((name), (names), sizeof(names) / sizeof *(names))

/* What both routes know. False: the name is not among them. */
static bool read_shared(struct reader *r, const struct json *value)
{
    struct chat_fields *f = r->fields;

    if (str_is(value->key, "temperature"))
        f->temperature = number(r, value, 0, 2);
    else if (str_is(value->key, "top_p"))
        f->top_p = number(r, value, 0, 1);
    else if (str_is(value->key, "seed")) {
        f->seed = integer(r, value, INT64_MIN + 1, INT64_MAX);
        f->has_seed = true;
    } else if (str_is(value->key, "stop"))
        read_stop(r, value);
    else if (str_is(value->key, "n"))
        f->n = integer(r, value, 1, 128);
    else if (str_is(value->key, "stream"))
        f->is_stream = boolean(r, value);
    else if (str_is(value->key, "max_tokens"))
        f->max_tokens = integer(r, value, 1, 1 << 30);
    else if (str_is(value->key, "stream_options"))
        read_stream_options(r, value);
    else
        return false;
    return true;
}

static void read_field(struct reader *r, const struct json *value)
{
    static const char *const labels[] = {
        "model",        "user",                "metadata",          "store",
        "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"};
    static const char *const neutral[] = {"frequency_penalty", "presence_penalty", "logit_bias", "tools",
                                          "tool_choice",       "functions",        "best_of",    "suffix",
                                          "function_call"};
    struct chat_fields *f = r->fields;

    if (value->type == JSON_NULL || IS_ONE_OF(value->key, labels) || read_shared(r, value))
        return;
    if (f->is_chat && str_is(value->key, "messages"))
        read_messages(r, value);
    else if (f->is_chat && str_is(value->key, "max_completion_tokens"))
        f->max_tokens = integer(r, value, 1, 1 << 30);
    else if (f->is_chat && str_is(value->key, "response_format"))
        read_response_format(r, value);
    else if (!f->is_chat && str_is(value->key, "prompt"))
        read_prompt(r, value);
    else if (!f->is_chat && str_is(value->key, "echo"))
        f->has_echo = boolean(r, value);
    else if (!f->is_chat && str_is(value->key, "logprobs"))
        f->logprobs = integer(r, value, 0, 5);
    else if (IS_ONE_OF(value->key, neutral))
        refuse_unless_neutral(r, value);
    else if (!(f->is_chat && (str_is(value->key, "logprobs") || str_is(value->key, "top_logprobs"))))
        problems_add(r->problems, "extra_forbidden", str_copy(r->arena, value->key), NULL, NULL, "%.*s is not known",
                     STR_ARG(value->key));
}

bool chat_fields_read(struct arena *arena, const struct json *body, bool is_chat, struct chat_fields *fields,
                      struct problems *problems)
{
    struct reader r = {arena, fields, problems};
    const struct json *model = json_get(body, "model");
    struct str twice = json_duplicate(body);

    *fields = (struct chat_fields){
        .is_chat = is_chat, .temperature = 1, .top_p = 1, .n = 1, .logprobs = -1, .max_tokens = is_chat ? 0 : 16};
    if (!json_has_type(body, JSON_OBJECT)) {
        problems_add(problems, "dict_type", NULL, NULL, NULL, "the body must be a JSON object");
        return false;
    }
    if (twice.at)
        problems_add(problems, "value_error", str_copy(arena, twice), NULL, NULL, "%.*s occurs twice", STR_ARG(twice));
    json_each(value, body)
        read_field(&r, value);
    if (is_chat)
        read_chat_logprobs(&r, body);
    fields->model = json_string_or(model, STR_NONE);
    if (fields->model.len == 0)
        problems_add(problems, "missing", "model", NULL, NULL, "model is required");
    else if (memchr(fields->model.at, 0, fields->model.len))
        problems_add(problems, "value_error", "model", NULL, NULL, "model holds a NUL character");
    if (is_chat && json_is_null(json_get(body, "messages")))
        problems_add(problems, "missing", "messages", NULL, NULL, "messages is required");
    if (!is_chat && json_is_null(json_get(body, "prompt")))
        problems_add(problems, "missing", "prompt", NULL, NULL, "prompt is required");
    for (int i = 0; i < fields->prompt_count && fields->has_echo; i++)
        if (fields->prompts[i]->type != JSON_STRING)
            problems_add(problems, "unsupported", "echo", NULL, NULL, "echo needs prompts as text, not token ids");
    if (fields->has_echo && fields->logprobs >= 0)
        problems_add(problems, "unsupported", "echo", NULL, NULL, "echo together with logprobs is not supported");
    return problems->count == 0;
}

void chat_fields_write(const struct chat_fields *f, int index, const char *scope, struct strbuf *out)
{
    struct json_writer w = {.buf = out};

    if (f->is_chat)
        json_put_value(&w, "messages", f->messages);
    else
        json_put_value(&w, f->prompts[index]->type == JSON_STRING ? "prompt" : "prompt_ids", f->prompts[index]);
    json_put_integer(&w, "max_tokens", f->max_tokens);
    json_put_number(&w, "temperature", f->temperature);
    json_put_number(&w, "top_p", f->top_p);
    json_put_integer(&w, "seed", f->seed);
    json_write_key(&w, "stop");
    json_write_begin_array(&w);
    for (int i = 0; i < f->stop_count; i++)
        json_write_string(&w, f->stop[i]);
    json_write_end_array(&w);
    json_put_integer(&w, "n", f->n);
    json_put_integer(&w, "logprobs", f->logprobs);
    json_put_text(&w, "scope", scope);
}
