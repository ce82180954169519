#include "data/preference.h"
#include "data/example_int.h"

/* Each completion's names: TRL's, OpenAI's, and OpenAI's first. */
static const char *const chosen_names[] = {"chosen", "preferred_output", "preferred_completion"};
static const char *const rejected_names[] = {"rejected", "non_preferred_output", "non_preferred_completion"};
enum { NAME_COUNT = 3 };

bool preference_is(const struct json *root)
{
    for (int i = 0; i < NAME_COUNT; i++)
        if (json_get(root, chosen_names[i]) || json_get(root, rejected_names[i]))
            return true;
    return false;
}

/* The one of the names that is there. */
static struct json *find_completion(const struct json *root, const char *const *names, const char *const *others,
                                    const char **name, struct err *err)
{
    for (int i = 0; i < NAME_COUNT; i++) {
        *name = names[i];
        if (json_get(root, names[i]))
            return json_get(root, names[i]);
    }
    for (int i = 0; i < NAME_COUNT; i++)
        if (json_get(root, others[i]))
            err_set(err, ERR_INPUT, "%s stands there without %s", others[i], names[i]);
    return NULL;
}

/* Items [first, end) of `list` behind those of `to`; nodes are copied, what they hold is shared. */
static void append(struct arena *arena, struct json *to, const struct json *list, uint32_t first, uint32_t end)
{
    struct json **link = &to->first;
    uint32_t index = 0;

    while (*link)
        link = &(*link)->next;
    json_each(item, list) {
        if (index >= first && index < end) {
            struct json *copy = arena_new(arena, struct json);
            *copy = *item;
            copy->next = NULL;
            *link = copy;
            link = &copy->next;
            to->count++;
        }
        index++;
    }
}

static struct json *new_list(struct arena *arena)
{
    struct json *list = arena_new(arena, struct json);

    *list = (struct json){.type = JSON_ARRAY};
    return list;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t common_messages(const struct json *a, const struct json *b)
{
    const struct json *x = a->first, *y = b->first;
    uint32_t count = 0, most = smaller(a->count, b->count);

    while (count < most && json_equal(x, y)) {
        x = x->next;
        y = y->next;
        count++;
    }
    return count < most ? count : most - 1;
}

/* Bytes of the prompt that two texts share. */
static size_t common_text(struct str a, struct str b)
{
    size_t most = a.len < b.len ? a.len : b.len, at = 0;
    bool differs;

    while (at < most && a.at[at] == b.at[at])
        at++;
    differs = at < most;
    if (!differs && at > 0)
        at--;
    while (at > 0 && (a.at[at] & 0xc0) == 0x80) /* whole characters */
        at--;
    return differs && at > 0 && a.at[at - 1] == ' ' ? at - 1 : at;
}

static bool check_completion(struct arena *arena, const struct json *list, const char *name, struct err *err)
{
    bool has_assistant = false;

    if (!example_check_messages(arena, list, name, &has_assistant, err))
        return false;
    return has_assistant ||
           err_set(err, ERR_INPUT, "%s holds no assistant message: there is nothing to train on", name);
}

static bool check_prompt(const struct json *prompt, struct err *err)
{
    return prompt->count > 0 || err_set(err, ERR_INPUT, "the prompt is empty: it needs at least one message");
}

static bool read_conversation(struct arena *arena, struct example *example, struct json *prompt, struct json *chosen,
                              struct json *rejected, const char *const *names, struct err *err)
{
    struct preference *preference = &example->preference;
    bool has_assistant;

    if ((prompt && !example_check_messages(arena, prompt, names[0], &has_assistant, err)) ||
        !check_completion(arena, chosen, names[1], err) || !check_completion(arena, rejected, names[2], err))
        return false;
    if (prompt) {
        preference->chosen = example_join(arena, prompt, chosen);
        preference->rejected = example_join(arena, prompt, rejected);
    } else {
        prompt = new_list(arena);
        append(arena, prompt, chosen, 0, common_messages(chosen, rejected));
        preference->chosen = chosen;
        preference->rejected = rejected;
    }
    example->messages = prompt;
    return check_prompt(prompt, err);
}

static bool is_string(const struct json *value)
{
    return json_has_type(value, JSON_STRING);
}

static void read_texts(struct example *example, const struct json *prompt, const struct json *chosen,
                       const struct json *rejected)
{
    struct preference *preference = &example->preference;

    if (prompt) {
        example->prompt = prompt->string;
        preference->chosen_text = chosen->string;
        preference->rejected_text = rejected->string;
    } else {
        size_t at = common_text(chosen->string, rejected->string);
        example->prompt = str_slice(chosen->string, 0, at);
        preference->chosen_text = str_slice(chosen->string, at, chosen->string.len);
        preference->rejected_text = str_slice(rejected->string, at, rejected->string.len);
    }
}

/* OpenAI's prompt and tools stand in `input`, TRL's beside the completions. */
static bool find_prompt(const struct json *root, const struct json **holder, struct json **prompt, const char **name,
                        struct err *err)
{
    const struct json *input = json_get(root, "input");

    *holder = root;
    *name = "prompt";
    *prompt = json_get(root, "prompt");
    if (json_is_null(*prompt))
        *prompt = NULL;
    if (!input)
        return true;
    if (*prompt)
        return err_set(err, ERR_INPUT, "the line has both prompt and input: it must have one of them");
    if (input->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "input is %s: it must be an object that holds messages", json_type_name(input));
    *holder = input;
    *name = "input.messages";
    *prompt = json_get(input, "messages");
    return *prompt || err_set(err, ERR_INPUT, "input.messages is missing: it must be an array");
}

bool preference_read(struct arena *arena, struct example *example, struct err *err)
{
    const char *names[3];
    const struct json *root = example->root, *holder;
    struct json *prompt, *chosen, *rejected;

    if (!find_prompt(root, &holder, &prompt, &names[0], err))
        return false;
    chosen = find_completion(root, chosen_names, rejected_names, &names[1], err);
    rejected = find_completion(root, rejected_names, chosen_names, &names[2], err);
    if (!chosen || !rejected)
        return false;
    if (is_string(chosen) != is_string(rejected) || (prompt && is_string(prompt) != is_string(chosen)))
        return err_set(err, ERR_INPUT, "%s, %s and %s must all be strings, or all be arrays of messages%s", names[0],
                       names[1], names[2],
                       prompt && is_string(prompt) ? " (without prompt it is what both begin with)" : "");
    if (is_string(chosen)) {
        read_texts(example, prompt, chosen, rejected);
        return true;
    }
    return read_conversation(arena, example, prompt, chosen, rejected, names, err) &&
           example_read_tools(arena, example, holder, err);
}
