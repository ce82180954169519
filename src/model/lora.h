/* model/lora.h - which modules an adapter adapts, and how: PEFT's rules over their names.
 *
 * A module is named as transformers names it: model.layers.3.self_attn.q_proj. Names in lists match a module that is
 * called so or whose name ends with a dot and them. Regular expressions are Python's as far as PCRE2 has them, matched
 * against the whole name under limits; those of rank_pattern and alpha_pattern match whole components at its end. The
 * first of several patterns that matches decides. */
#pragma once

#include "base/json.h"

enum { LORA_RANK_MAX = 512 };

struct lora_names {
    const char *const *name; /* NULL: none */
    int count;
    const char *regex; /* instead of names */
};
struct lora_pattern {
    const char *regex;
    double value;
};
struct lora_patterns {
    const struct lora_pattern *at;
    int count;
};

struct lora_config {
    int32_t rank;          /* 0: no adapter */
    double alpha, dropout; /* scale = alpha / rank, or alpha / sqrt(rank) with is_rslora */
    bool is_rslora, is_dora;
    struct lora_names targets; /* neither names nor regex: all linear layers of attention and MLP */
    struct lora_names excluded;
    const int32_t *layers; /* layers_to_transform; NULL: all */
    int layer_count;
    struct lora_patterns rank_pattern, alpha_pattern; /* that differ from rank and alpha */
    struct lora_names saved; /* modules_to_save: embeddings, head and norms that train whole */
};

/* The config with its expressions compiled. ERR_INPUT for values out of range and for expressions that are none. */
struct lora_rules;
struct lora_rules *lora_rules_new(const struct lora_config *config, struct err *err);
void lora_rules_free(struct lora_rules *rules); /* NULL is fine */

/* rank 0: the module has no adapter. */
struct lora_choice {
    int32_t rank;
    float scale;
};
/* `layer`: which layer the module is of, -1: none; is_linear: it is a linear layer of attention or MLP, which the
 * default means. False with err set when an expression passes its limits. */
bool lora_rules_choose(struct lora_rules *rules, const char *module, int32_t layer, bool is_linear,
                       struct lora_choice *choice, struct err *err);
/* Whether a module trains whole beside the adapter: its name ends with one of modules_to_save, dot or not. */
bool lora_rules_save(struct lora_rules *rules, const char *module);
/* After all modules were asked for: a name, expression or pattern that fitted none is ERR_INPUT and named. `names` is
 * a list for people of what there is. */
bool lora_rules_check_used(const struct lora_rules *rules, const char *names, struct err *err);

/* The members of adapter_config.json and of job.json's options: r and lora_alpha aside, everything of lora_config.
 * `targets` is what the object calls target_modules. What is absent or null stays as it is; texts are copied. */
bool lora_json_read(struct arena *arena, const struct json *object, const char *targets, struct lora_config *config,
                    struct err *err);
/* A value of one of these members: null, a list, an expression; an object of patterns. */
void lora_json_write_names(struct json_writer *writer, const struct lora_names *names);
void lora_json_write_layers(struct json_writer *writer, const struct lora_config *config);
void lora_json_write_patterns(struct json_writer *writer, const struct lora_patterns *patterns);
