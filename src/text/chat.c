#include "text/chat.h"

#include <string.h>

/* Variables of one rendering: the caller's, then messages, tools and the generation prompt, which win. The nodes are
 * copied shallowly, so the caller's trees stay as they are. */
static struct json *make_variables(const struct chat_input *input, bool has_prompt, struct arena *arena)
{
    size_t count = 0;
    struct json *object = arena_new(arena, struct json);
    struct json *members = arena_new_array(arena, struct json, (input->variables ? input->variables->count : 0) + 5);

    /* The last of two equal names counts, so what stands first is only a default. */
    members[count++] = (struct json){.type = JSON_NULL, .key = STR("tools")};
    members[count++] = (struct json){.type = JSON_NULL, .key = STR("documents")};
    json_each(variable, input->variables)
        members[count++] = *variable;
    if (input->tools) {
        members[count] = *input->tools;
        members[count++].key = STR("tools");
    }
    members[count] = *input->messages;
    members[count++].key = STR("messages");
    members[count++] = (struct json){.type = JSON_BOOL, .boolean = has_prompt, .key = STR("add_generation_prompt")};
    for (size_t i = 0; i < count; i++)
        members[i].next = i + 1 < count ? &members[i + 1] : NULL;
    *object = (struct json){.type = JSON_OBJECT, .count = (uint32_t)count, .first = members};
    return object;
}

/* Names under which reasoning comes; the first is the one that templates read, the second is gpt-oss'. */
static const char *const reasoning_names[] = {"reasoning_content", "thinking", "reasoning"};

static const struct json *reasoning_of(const struct json *message)
{
    for (size_t i = 0; i < sizeof reasoning_names / sizeof *reasoning_names; i++)
        if (!json_is_null(json_get(message, reasoning_names[i])))
            return json_get(message, reasoning_names[i]);
    return NULL;
}

static struct json *add_member(struct json *object, struct json **end, const struct json *value, struct str key)
{
    **end = *value;
    (*end)->key = key;
    (*end)->next = *end + 1;
    object->count++;
    return (*end)++;
}

static bool is_developer_role(const struct json *member)
{
    return str_is(member->key, "role") && json_is(member, "developer");
}

/* A message as templates get it from transformers: members that are null are left out, and reasoning stands under both
 * names that templates know. */
static struct json clean_message(const struct json *message, bool no_developer, struct arena *arena)
{
    static const struct json system_role = {.type = JSON_STRING, .string = {"system", 6}};
    struct json clean = *message, *end = arena_new_array(arena, struct json, message->count + 2);
    const struct json *reasoning = reasoning_of(message);

    clean.count = 0;
    clean.first = end;
    if (reasoning && json_is_null(json_get(message, "thinking")))
        add_member(&clean, &end, reasoning, STR("thinking"));
    json_each(member, message)
        if (member->type != JSON_NULL)
            add_member(&clean, &end, no_developer && is_developer_role(member) ? &system_role : member, member->key);
    if (reasoning && json_is_null(json_get(message, "reasoning_content")))
        add_member(&clean, &end, reasoning, STR("reasoning_content"));
    if (clean.count)
        end[-1].next = NULL;
    else
        clean.first = NULL;
    return clean;
}

static struct json *clean_messages(const struct json *messages, bool no_developer, struct arena *arena)
{
    struct json *clean = arena_new(arena, struct json), *item = arena_new_array(arena, struct json, messages->count);

    *clean = *messages;
    clean->first = item;
    json_each(message, messages) {
        *item = clean_message(message, no_developer, arena);
        item->next = message->next ? item + 1 : NULL;
        item++;
    }
    return clean;
}

/* The first message_count messages as text. A list is read along its `next`, so it is cut by a copy of its items. */
static bool render(const struct chat_input *input, size_t message_count, bool has_prompt, struct arena *arena,
                   struct str *text, struct template_spans *spans, struct err *err)
{
    struct json *messages = arena_new(arena, struct json),
                *items = arena_new_array(arena, struct json, message_count + 1);
    struct chat_input cut = *input;
    struct strbuf out = {0};
    size_t count = 0;
    bool ok;

    json_each(message, input->messages) {
        if (count == message_count)
            break;
        items[count] = *message;
        if (count)
            items[count - 1].next = &items[count];
        items[count++].next = NULL;
    }
    *messages = (struct json){.type = JSON_ARRAY, .count = (uint32_t)count, .first = count ? items : NULL};
    cut.messages = messages;
    ok = template_render(input->template, make_variables(&cut, has_prompt, arena), &input->options, &out, spans, arena,
                         err);
    if (ok)
        *text = (struct str){str_copy(arena, strbuf_view(&out)), out.len};
    strbuf_deinit(&out);
    return ok;
}

static bool is_assistant(const struct json *message)
{
    return json_is(json_get(message, "role"), "assistant");
}

static bool is_masked(const struct json *message)
{
    return json_number_or(json_get(message, "weight"), 1) == 0;
}

static bool ends_with_special(const struct chat_input *input, struct str text)
{
    for (size_t i = 0; i < input->special_token_count; i++)
        if (input->special_tokens[i].len && str_ends(text, input->special_tokens[i]))
            return true;
    return false;
}

/* End of the special token that only white space follows, 0 when there is none. */
static size_t end_token_end(const struct chat_input *input, struct str text)
{
    for (size_t end = text.len; end > 0; end--) {
        if (ends_with_special(input, str_slice(text, 0, end)))
            return end;
        if (str_trim(str_slice(text, end - 1, end)).len > 0)
            return 0;
    }
    return 0;
}

static void trim_to_end_token(const struct chat_input *input, struct str text, struct chat_span *span)
{
    size_t end = end_token_end(input, str_slice(text, span->start, span->end));

    span->has_end_token = end > 0;
    if (span->has_end_token)
        span->end = span->start + end;
}

static bool not_stable(size_t index, const char *what, struct err *err)
{
    return err_set(
        err, ERR_INPUT,
        "the chat template is not prefix-stable at message %zu: %s; use a template with {%% generation %%} marks, or "
        "split the conversation so that each ends with the turn to train",
        index, what);
}

/* Rule 2 for the assistant message at `index`. */
static bool span_by_prefixes(const struct chat_input *input, struct str whole, size_t index, struct arena *arena,
                             struct chat_span *span, struct err *err)
{
    struct str before, through = whole;

    if (!render(input, index, true, arena, &before, NULL, err) ||
        (index + 1 < input->messages->count && !render(input, index + 1, false, arena, &through, NULL, err)))
        return err_prefix(err, "messages up to %zu", index);
    if (!str_starts(through, before))
        return not_stable(index, "its turn does not begin with the generation prompt", err);
    if (!str_starts(whole, through))
        return not_stable(index, "the turn is rendered differently once messages follow it", err);
    span->start = before.len;
    span->end = through.len;
    trim_to_end_token(input, whole, span);
    return true;
}

static bool spans_by_prefixes(const struct chat_input *input, struct arena *arena, struct chat_text *chat,
                              struct err *err)
{
    size_t index = 0;

    json_each(message, input->messages) {
        struct chat_span *span = &chat->spans[chat->span_count];
        struct err ignored;
        if (is_assistant(message)) {
            *span = (struct chat_span){.message_index = (uint32_t)index, .is_masked = is_masked(message)};
            if (span_by_prefixes(input, chat->text, index, arena, span, span->is_masked ? &ignored : err))
                chat->span_count++;
            else if (!span->is_masked)
                return false;
        }
        index++;
    }
    return true;
}

/* Marks that touch become one: Phi-3 marks the end of the text on its own. */
static void join_marks(struct template_spans *marks)
{
    size_t count = 0;

    for (size_t i = 0; i < marks->count; i++)
        if (count && marks->at[count - 1].end == marks->at[i].start)
            marks->at[count - 1].end = marks->at[i].end;
        else
            marks->at[count++] = marks->at[i];
    marks->count = count;
}

/* Rule 1. Marks and messages are matched in order when there is one mark a message. */
static bool spans_by_marks(const struct chat_input *input, struct template_spans *marks, struct arena *arena,
                           struct chat_text *chat, struct err *err)
{
    size_t assistant_count = 0, index = 0, count = 0;
    bool has_masked = false;

    json_each(message, input->messages) {
        assistant_count += is_assistant(message);
        has_masked |= is_assistant(message) && is_masked(message);
    }
    if (assistant_count != marks->count)
        join_marks(marks);
    if (has_masked && assistant_count != marks->count)
        return err_set(err, ERR_INPUT,
                       "the template marks %zu spans for %zu assistant messages, so \"weight\": 0 cannot be placed",
                       marks->count, assistant_count);
    chat->spans = arena_new_array(arena, struct chat_span, marks->count);
    for (; count < marks->count; count++)
        chat->spans[count] =
            (struct chat_span){marks->at[count].start, marks->at[count].end, CHAT_NO_MESSAGE, false, false};
    chat->span_count = marks->count;
    count = 0;
    json_each(message, input->messages) {
        if (is_assistant(message) && assistant_count == marks->count) {
            chat->spans[count].message_index = (uint32_t)index;
            chat->spans[count++].is_masked = is_masked(message);
        }
        index++;
    }
    for (size_t i = 0; i < chat->span_count; i++) {
        struct str turn = str_slice(chat->text, chat->spans[i].start, chat->spans[i].end);
        chat->spans[i].has_end_token = end_token_end(input, turn) > 0;
    }
    return true;
}

static bool check_input(const struct chat_input *input, struct err *err)
{
    if (!input->messages || input->messages->type != JSON_ARRAY || input->messages->count == 0)
        return err_set(err, ERR_INPUT, "messages must be a list with at least one message, not %s",
                       json_type_name(input->messages));
    json_each(message, input->messages)
        if (message->type != JSON_OBJECT)
            return err_set(err, ERR_INPUT, "a message must be an object, not %s", json_type_name(message));
    if (input->variables && input->variables->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "template variables must be an object, not %s",
                       json_type_name(input->variables));
    return true;
}

/* Checks the input and makes the one that templates see. */
static bool clean_input(const struct chat_input *input, struct arena *arena, struct chat_input *clean, struct err *err)
{
    if (!check_input(input, err))
        return false;
    *clean = *input;
    clean->messages = clean_messages(input->messages, input->no_developer, arena);
    return true;
}

bool chat_render(const struct chat_input *input, struct arena *arena, struct chat_text *chat, struct err *err)
{
    struct template_spans marks = {0};
    struct chat_input clean;

    *chat = (struct chat_text){0};
    if (!clean_input(input, arena, &clean, err) ||
        !render(&clean, clean.messages->count, false, arena, &chat->text, &marks, err))
        return false;
    chat->from_marks = template_has_generation(clean.template);
    if (chat->from_marks)
        return spans_by_marks(&clean, &marks, arena, chat, err);
    chat->spans = arena_new_array(arena, struct chat_span, clean.messages->count);
    return spans_by_prefixes(&clean, arena, chat, err);
}

bool chat_render_prompt(const struct chat_input *input, struct arena *arena, struct str *text, struct err *err)
{
    struct chat_input clean;

    return clean_input(input, arena, &clean, err) &&
           render(&clean, clean.messages->count, true, arena, text, NULL, err);
}

bool chat_render_whole(const struct chat_input *input, struct arena *arena, struct str *text, struct err *err)
{
    struct chat_input clean;

    return clean_input(input, arena, &clean, err) &&
           render(&clean, clean.messages->count, false, arena, text, NULL, err);
}
