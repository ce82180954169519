#include "data/example_int.h"

static bool check_ids(const struct json *ids, const char *name, struct err *err)
{
    size_t index = 0;

    if (!example_is(ids, JSON_ARRAY))
        return example_wrong_type(name, ids, "an array of integers", err);
    if (ids->count < 2)
        return err_set(err, ERR_INPUT, "%s has %u entries: at least 2 are needed, the first one predicts the next",
                       name, ids->count);
    json_each(id, ids) {
        if (id->type != JSON_NUMBER || !id->is_integer || id->integer < 0 || id->integer > INT32_MAX)
            return err_set(err, ERR_INPUT, "%s[%zu] must be an integer from 0 to 2147483647", name, index);
        index++;
    }
    return true;
}

static bool check_parallel(const struct json *ids, const struct json *list, const char *name, struct err *err)
{
    if (list->type != JSON_ARRAY)
        return example_wrong_type(name, list, "an array of integers", err);
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
    json_each(label, labels) {
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
    json_each(flag, mask) {
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
    json_each(label, labels) {
        *item = *label;
        item->integer = flag->integer ? label->integer : EXAMPLE_NO_LABEL;
        item->next = label->next ? item + 1 : NULL;
        item++;
        flag = flag->next;
    }
    return masked;
}

bool example_read_token_ids(struct arena *arena, struct example *example, struct err *err)
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
    json_each(flag, attention)
        if (flag->integer != 1)
            return err_set(err, ERR_INPUT, "attention_mask must be all 1: leave padding out of the tokens");
    return true;
}
