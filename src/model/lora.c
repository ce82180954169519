#include "model/lora.h"

#include "text/pattern.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct rule {
    const char *text;
    struct pattern *pattern; /* NULL: a name */
    const char *field;       /* adapter_config.json's word for it */
    double value;
    bool is_used;
};

struct lora_rules {
    struct arena arena;
    const struct lora_config *config;
    struct rule *target, *excluded, *rank, *alpha, *saved;
    int target_count, excluded_count, rank_count, alpha_count, saved_count;
    void *match_data;
};

/* --- making --- */

/* `format` puts the expression between anchors. */
static bool compile(struct lora_rules *rules, struct rule *rule, const char *format, struct err *err)
{
    char *text = arena_printf(&rules->arena, "%s", format);
    char *hole = strchr(text, '%');

    text = arena_printf(&rules->arena, "%.*s%s%s", (int)(hole - text), text, rule->text, hole + 1);
    rule->pattern = pattern_regex(str_of(text), rule->field, err);
    return rule->pattern != NULL;
}

static bool add_names(struct lora_rules *rules, const struct lora_names *names, const char *field, struct rule **out,
                      int *count, struct err *err)
{
    *out = arena_new_array(&rules->arena, struct rule, (size_t)names->count + 1);
    for (int i = 0; i < names->count; i++)
        (*out)[(*count)++] = (struct rule){.text = names->name[i], .field = field};
    if (!names->regex)
        return true;
    (*out)[(*count)++] = (struct rule){.text = names->regex, .field = field};
    return compile(rules, &(*out)[*count - 1], "\\A(?:%)\\z", err);
}

static bool add_patterns(struct lora_rules *rules, const struct lora_patterns *patterns, const char *field,
                         struct rule **out, int *count, struct err *err)
{
    *out = arena_new_array(&rules->arena, struct rule, (size_t)patterns->count + 1);
    for (int i = 0; i < patterns->count; i++) {
        struct rule *rule = &(*out)[(*count)++];
        *rule = (struct rule){.text = patterns->at[i].regex, .field = field, .value = patterns->at[i].value};
        if (!compile(rules, rule, "\\A(?:.*\\.)?(?:%)\\z", err))
            return false;
    }
    return true;
}

static bool is_rank(double value)
{
    return value >= 1 && value <= LORA_RANK_MAX && value == floor(value);
}

static bool check_values(const struct lora_config *config, struct err *err)
{
    if (!is_rank(config->rank))
        return err_set(err, ERR_INPUT, "lora_r is %d; it must be from 1 to %d", config->rank, LORA_RANK_MAX);
    if (!(config->alpha > 0) || !(config->dropout >= 0 && config->dropout < 1))
        return err_set(err, ERR_INPUT, "lora_alpha must be above 0 and lora_dropout from 0 to below 1");
    if (config->is_dora && config->dropout > 0)
        return err_set(err, ERR_UNSUPPORTED, "use_dora is not supported with lora_dropout above 0");
    if (config->targets.name && !config->targets.count)
        return err_set(err, ERR_INPUT, "the list of LoRA targets is empty");
    for (int i = 0; i < config->rank_pattern.count; i++)
        if (!is_rank(config->rank_pattern.at[i].value))
            return err_set(err, ERR_INPUT, "rank_pattern: the rank of \"%.64s\" must be from 1 to %d",
                           config->rank_pattern.at[i].regex, LORA_RANK_MAX);
    for (int i = 0; i < config->alpha_pattern.count; i++)
        if (!(config->alpha_pattern.at[i].value > 0))
            return err_set(err, ERR_INPUT, "alpha_pattern: the alpha of \"%.64s\" must be above 0",
                           config->alpha_pattern.at[i].regex);
    return true;
}

struct lora_rules *lora_rules_new(const struct lora_config *config, struct err *err)
{
    struct lora_rules *rules = mem_alloc_zero(1, sizeof *rules);

    rules->config = config;
    rules->match_data = pattern_match_data();
    if (check_values(config, err) &&
        add_names(rules, &config->targets, "lora_target_modules", &rules->target, &rules->target_count, err) &&
        add_names(rules, &config->excluded, "exclude_modules", &rules->excluded, &rules->excluded_count, err) &&
        add_names(rules, &config->saved, "modules_to_save", &rules->saved, &rules->saved_count, err) &&
        add_patterns(rules, &config->rank_pattern, "rank_pattern", &rules->rank, &rules->rank_count, err) &&
        add_patterns(rules, &config->alpha_pattern, "alpha_pattern", &rules->alpha, &rules->alpha_count, err))
        return rules;
    lora_rules_free(rules);
    return NULL;
}

static void free_patterns(struct rule *rule, int count)
{
    for (int i = 0; i < count; i++)
        pattern_free(rule[i].pattern);
}

void lora_rules_free(struct lora_rules *rules)
{
    if (!rules)
        return;
    free_patterns(rules->target, rules->target_count);
    free_patterns(rules->excluded, rules->excluded_count);
    free_patterns(rules->rank, rules->rank_count);
    free_patterns(rules->alpha, rules->alpha_count);
    pattern_match_data_free(rules->match_data);
    arena_deinit(&rules->arena);
    free(rules);
}

/* --- asking --- */

static bool name_matches(const char *name, struct str module)
{
    struct str want = str_of(name);

    return str_ends(module, want) && (module.len == want.len || module.at[module.len - want.len - 1] == '.');
}

static bool rule_matches(struct lora_rules *rules, struct rule *rule, struct str module, bool *matches, struct err *err)
{
    size_t start, end;

    *matches = !rule->pattern && name_matches(rule->text, module);
    if (rule->pattern) {
        if (!pattern_find(rule->pattern, rules->match_data, module, 0, &start, &end, err))
            return err_prefix(err, "%s \"%.64s\"", rule->field, rule->text);
        *matches = start == 0 && end == module.len && module.len > 0;
    }
    return true;
}

/* The first rule that fits; NULL in *found when none does. Every rule that would fit counts as used. */
static bool find_rule(struct lora_rules *rules, struct rule *rule, int count, struct str module, struct rule **found,
                      struct err *err)
{
    *found = NULL;
    for (int i = 0; i < count; i++) {
        bool matches;
        if (!rule_matches(rules, &rule[i], module, &matches, err))
            return false;
        rule[i].is_used |= matches;
        if (matches && !*found)
            *found = &rule[i];
    }
    return true;
}

/* Whether the name holds these components, or lies below a module that does. */
static bool is_below(const char *part, struct str module)
{
    struct str want = str_of(part);

    for (ptrdiff_t at = str_find(module, want, 0); at >= 0; at = str_find(module, want, (size_t)at + 1)) {
        size_t end = (size_t)at + want.len;
        if ((at == 0 || module.at[at - 1] == '.') && (end == module.len || module.at[end] == '.'))
            return true;
    }
    return false;
}

static bool has_layer(const struct lora_config *config, int32_t layer)
{
    for (int i = 0; i < config->layer_count; i++)
        if (config->layers[i] == layer)
            return true;
    return !config->layers;
}

/* "all-linear" says what the absence of names says. */
static bool is_default(const struct lora_names *targets)
{
    return !targets->regex && (!targets->name || (targets->count == 1 && !strcasecmp(targets->name[0], "all-linear")));
}

/* PEFT asks for the layer only where the end of a name matched, not its whole nor an expression. */
static bool is_adapted(struct lora_rules *rules, struct str module, int32_t layer, bool is_linear, bool *is_adapted,
                       struct err *err)
{
    struct rule *target, *excluded;

    if (!find_rule(rules, rules->target, rules->target_count, module, &target, err) ||
        !find_rule(rules, rules->excluded, rules->excluded_count, module, &excluded, err))
        return false;
    if (is_default(&rules->config->targets))
        *is_adapted = is_linear && has_layer(rules->config, layer);
    else
        *is_adapted = target && (target->pattern || str_is(module, target->text) || has_layer(rules->config, layer));
    *is_adapted &= !excluded;
    for (int i = 0; i < rules->saved_count; i++)
        *is_adapted &= !is_below(rules->saved[i].text, module);
    return true;
}

bool lora_rules_choose(struct lora_rules *rules, const char *module, int32_t layer, bool is_linear,
                       struct lora_choice *choice, struct err *err)
{
    struct str name = str_of(module);
    struct rule *rank, *alpha;
    double r, a;
    bool has_adapter;

    *choice = (struct lora_choice){0};
    if (!is_adapted(rules, name, layer, is_linear, &has_adapter, err))
        return false;
    if (!has_adapter)
        return true;
    if (!find_rule(rules, rules->rank, rules->rank_count, name, &rank, err) ||
        !find_rule(rules, rules->alpha, rules->alpha_count, name, &alpha, err))
        return false;
    r = rank ? rank->value : rules->config->rank;
    a = alpha ? alpha->value : rules->config->alpha;
    *choice = (struct lora_choice){(int32_t)r, (float)(a / (rules->config->is_rslora ? sqrt(r) : r))};
    return true;
}

bool lora_rules_save(struct lora_rules *rules, const char *module)
{
    bool is_saved = false;

    for (int i = 0; i < rules->saved_count; i++) {
        bool matches = str_ends(str_of(module), str_of(rules->saved[i].text));
        rules->saved[i].is_used |= matches;
        is_saved |= matches;
    }
    return is_saved;
}

static const struct rule *first_unused(const struct rule *rule, int count)
{
    for (int i = 0; i < count; i++)
        if (!rule[i].is_used)
            return &rule[i];
    return NULL;
}

bool lora_rules_check_used(const struct lora_rules *rules, const char *names, struct err *err)
{
    const struct rule *unused = first_unused(rules->target, rules->target_count);

    if (unused && !is_default(&rules->config->targets))
        return err_set(err, ERR_INPUT, "the LoRA target \"%.64s\" names no linear layer of this model; there are %s",
                       unused->text, names);
    unused = first_unused(rules->excluded, rules->excluded_count);
    if (!unused)
        unused = first_unused(rules->saved, rules->saved_count);
    if (!unused)
        unused = first_unused(rules->rank, rules->rank_count);
    if (!unused)
        unused = first_unused(rules->alpha, rules->alpha_count);
    return !unused || err_set(err, ERR_INPUT, "%s: \"%.64s\" fits no module that it could; there are %s",
                              unused->field, unused->text, names);
}
