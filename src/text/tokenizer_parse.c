/* Pre-tokenizers and post-processors of tokenizer.json. */
#include "text/tokenizer_int.h"

static bool refuse(const char *what, struct str type, const char *why, struct err *err)
{
    return err_set(err, ERR_UNSUPPORTED, "tokenizer: %s %.*s %s", what, STR_ARG(str_slice(type, 0, 60)), why);
}

static bool parse_behavior(const struct json *json, struct str fallback, struct split_stage *stage, struct err *err)
{
    static const char *const names[] = {[ISOLATED] = "Isolated",
                                        [REMOVED] = "Removed",
                                        [CONTIGUOUS] = "Contiguous",
                                        [MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [MERGED_WITH_NEXT] = "MergedWithNext"};
    struct str name = json_string_or(json_get(json, "behavior"), fallback);

    for (int i = 0; i < 5; i++)
        if (str_is(name, names[i])) {
            stage->behavior = i;
            return true;
        }
    return refuse("behavior", name, "of a pre-tokenizer is not known", err);
}

static bool parse_split(struct split_stage *stage, const struct json *json, struct err *err)
{
    const struct json *pattern = json_get(json, "pattern");
    const struct json *regex = json_get(pattern, "Regex");

    stage->kind = SPLIT;
    stage->invert = json_bool_or(json_get(json, "invert"), false);
    if (!parse_behavior(json, STR(""), stage, err))
        return false;
    if (json_has_type(regex, JSON_STRING))
        stage->match = pretoken_known(regex->string);
    if (!stage->match)
        stage->pattern = pattern_parse(pattern, "pre-tokenizer Split", err);
    return stage->match || stage->pattern;
}

static bool parse_metaspace(struct tokenizer *tok, struct split_stage *stage, const struct json *json, struct err *err)
{
    struct str replacement = json_string_or(json_get(json, "replacement"), STR("\xe2\x96\x81"));
    struct str scheme =
        json_string_or(json_get(json, "prepend_scheme"),
                       json_bool_or(json_get(json, "add_prefix_space"), true) ? STR("always") : STR("never"));

    stage->kind = SPLIT_METASPACE;
    stage->cuts = json_bool_or(json_get(json, "split"), true);
    stage->replacement = (struct str){str_copy(&tok->arena, replacement), replacement.len};
    stage->prepend = str_is(scheme, "always")  ? PREPEND_ALWAYS
                     : str_is(scheme, "first") ? PREPEND_FIRST
                                               : PREPEND_NEVER;
    if (stage->prepend == PREPEND_NEVER && !str_is(scheme, "never"))
        return refuse("prepend_scheme", scheme, "of Metaspace is not known", err);
    stage->behavior = MERGED_WITH_NEXT;
    return replacement.len > 0 || refuse("pre-tokenizer", STR("Metaspace"), "has an empty replacement", err);
}

static bool add_split(struct tokenizer *tok, const struct split_stage *stage, struct err *err)
{
    if (tok->split_count == SPLIT_STAGES_MAX)
        return err_set(err, ERR_LIMIT, "tokenizer: more than %d pre-tokenizers", SPLIT_STAGES_MAX);
    tok->splits[tok->split_count++] = *stage;
    return true;
}

static bool parse_stage(struct tokenizer *tok, const struct json *json, struct err *err)
{
    struct str type = json_string_or(json_get(json, "type"), STR("(no type)"));
    struct split_stage stage = {0};

    if (tok->byte_level)
        return refuse("pre-tokenizer", type, "after ByteLevel is not supported", err);
    if (str_is(type, "Split")) {
        if (!parse_split(&stage, json, err))
            return false;
    } else if (str_is(type, "ByteLevel")) {
        stage = (struct split_stage){.kind = SPLIT_BYTE_LEVEL, .match = pretoken_gpt2, .replacement = STR(" "),
                                     .cuts = json_bool_or(json_get(json, "use_regex"), true)};
        stage.prepend = json_bool_or(json_get(json, "add_prefix_space"), true) ? PREPEND_ALWAYS : PREPEND_NEVER;
        tok->byte_level = true;
    } else if (str_is(type, "Metaspace")) {
        if (!parse_metaspace(tok, &stage, json, err))
            return false;
    } else if (str_is(type, "Digits")) {
        stage.match = pretoken_digit;
        stage.behavior = json_bool_or(json_get(json, "individual_digits"), false) ? ISOLATED : CONTIGUOUS;
    } else if (str_is(type, "Punctuation")) {
        stage.match = pretoken_punctuation;
        if (!parse_behavior(json, STR("Isolated"), &stage, err))
            return false;
    } else if (str_is(type, "Whitespace")) {
        stage = (struct split_stage){.match = pretoken_words, .behavior = REMOVED, .invert = true};
    } else if (str_is(type, "WhitespaceSplit")) {
        stage = (struct split_stage){.match = pretoken_space, .behavior = REMOVED};
    } else {
        return refuse("pre-tokenizer", type, "is not supported", err);
    }
    if (stage.kind == SPLIT_BYTE_LEVEL && !stage.cuts && stage.prepend == PREPEND_NEVER)
        return true; /* words go to the model as they are */
    if (!add_split(tok, &stage, err)) {
        pattern_free(stage.pattern);
        return false;
    }
    return true;
}

bool tokenizer_parse_splits(struct tokenizer *tok, const struct json *json, struct err *err)
{
    if (json_is_null(json))
        return true;
    if (!json_is(json_get(json, "type"), "Sequence"))
        return parse_stage(tok, json, err);
    json_each(item, json_get(json, "pretokenizers"))
        if (!tokenizer_parse_splits(tok, item, err))
            return false;
    return true;
}

static bool add_id(struct tokenizer *tok, struct id_list *list, const struct json *id, struct err *err)
{
    int32_t *ids;

    if (!json_has_type(id, JSON_NUMBER) || !id->is_integer || id->integer < 0 || (size_t)id->integer >= tok->id_limit)
        return err_set(err, ERR_INPUT, "tokenizer: the post-processor adds an id that no token has");
    if (list->count == 64)
        return err_set(err, ERR_LIMIT, "tokenizer: the post-processor adds more than 64 tokens");
    ids = arena_new_array(&tok->arena, int32_t, list->count + 1);
    for (size_t i = 0; i < list->count; i++)
        ids[i] = list->ids[i];
    ids[list->count++] = (int32_t)id->integer;
    list->ids = ids;
    return true;
}

static bool add_special(struct tokenizer *tok, struct id_list *list, const struct json *specials, struct str name,
                        struct err *err)
{
    json_each(entry, specials)
        if (str_equal(entry->key, name)) {
            json_each(id, json_get(entry, "ids"))
                if (!add_id(tok, list, id, err))
                    return false;
            return true;
        }
    return err_set(err, ERR_INPUT, "tokenizer: the post-processor's special token \"%.*s\" is not in its list",
                   STR_ARG(str_slice(name, 0, 60)));
}

static bool parse_template(struct tokenizer *tok, const struct json *json, struct err *err)
{
    struct id_list *list = &tok->before;
    const struct json *specials = json_get(json, "special_tokens");

    if (tok->before.count || tok->after.count)
        return refuse("post-processor", STR("TemplateProcessing"), "behind another one is not supported", err);
    json_each(item, json_get(json, "single")) {
        const struct json *special = json_get(item, "SpecialToken"), *sequence = json_get(item, "Sequence");

        if (special) {
            if (!add_special(tok, list, specials, json_string_or(json_get(special, "id"), STR("")), err))
                return false;
        } else if (sequence && list == &tok->before && json_is(json_get(sequence, "id"), "A")) {
            list = &tok->after;
        } else {
            return refuse("post-processor", STR("TemplateProcessing"), "does not hold the text exactly once", err);
        }
    }
    return list == &tok->after ||
           refuse("post-processor", STR("TemplateProcessing"), "does not hold the text exactly once", err);
}

/* ["[CLS]", 101] */
static bool add_pair(struct tokenizer *tok, struct id_list *list, const struct json *pair, struct err *err)
{
    return add_id(tok, list, json_at(pair, 1), err);
}

bool tokenizer_parse_post(struct tokenizer *tok, const struct json *json, struct err *err)
{
    struct str type = json_string_or(json_get(json, "type"), STR("(no type)"));

    if (json_is_null(json) || str_is(type, "ByteLevel"))
        return true;
    if (str_is(type, "TemplateProcessing"))
        return parse_template(tok, json, err);
    if (str_is(type, "BertProcessing") || str_is(type, "RobertaProcessing"))
        return add_pair(tok, &tok->before, json_get(json, "cls"), err) &&
               add_pair(tok, &tok->after, json_get(json, "sep"), err);
    if (!str_is(type, "Sequence"))
        return refuse("post-processor", type, "is not supported", err);
    json_each(item, json_get(json, "processors"))
        if (!tokenizer_parse_post(tok, item, err))
            return false;
    return true;
}
