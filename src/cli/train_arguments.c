#include "cli/train_arguments.h"
#include "cli/options.h"
#include "compute/device.h"
#include "hub/cache.h"
#include "hub/name.h"
#include "os/clock.h"
#include "os/file.h"

#include <string.h>

enum { OPTIONS_MAX = 64 };

#define OPTION_KIND_INT   OPTION_INT
#define OPTION_KIND_FLOAT OPTION_FLOAT
#define OPTION_KIND_BOOL  OPTION_FLAG

/* Where it is noted that the hyperparameter was given; NULL: nobody asks. */
static bool *note_given(struct train_arguments *a, const char *name)
{
    if (strcmp(name, "learning_rate") == 0)
        return &a->given.learning_rate;
    if (strcmp(name, "beta") == 0)
        return &a->given.beta;
    return strcmp(name, "packing") == 0 ? &a->given.packing : NULL;
}

/* A command line in the making. */
struct option_list {
    struct option at[OPTIONS_MAX];
    int count;
};

static void add_options(struct option_list *list, const struct option *options, size_t count)
{
    memcpy(&list->at[list->count], options, count * sizeof *options);
    list->count += (int)count;
}

static void list_what_runs(struct train_arguments *a, struct option_list *list)
{
    const struct option options[] = {
        {NULL, 0, NULL, NULL, "a run directory:", NULL},
        {"run", OPTION_TEXT, &a->run, "DIR", "the run directory that holds job.json", NULL},
        {"attempt", OPTION_INT, &a->attempt, "N", "number of this attempt (1)", NULL},
        {NULL, 0, NULL, NULL, "or a run from the command line:", NULL},
        {"model", OPTION_TEXT, &a->model, "DIR|NAME",
         "base model: a Hugging Face folder, or org/name of one in the Hub's cache", NULL},
        {"train", OPTION_TEXT, &a->train, "FILE", "training data, JSON Lines", NULL},
        {"valid", OPTION_TEXT, &a->valid, "FILE", "validation data", NULL},
        {"out", OPTION_TEXT, &a->out, "DIR", "where everything goes; the same command again goes on where it stopped",
         NULL},
        {"adapter", OPTION_TEXT, &a->adapter, "DIR", "a PEFT adapter to train on", NULL},
        {"method", OPTION_TEXT, &a->method, "NAME", "supervised or dpo: preferences, no packing, rate 1e-6 (LoRA 1e-5)",
         NULL},
        {NULL, 0, NULL, NULL, "hyperparameters:", NULL},
    };

    add_options(list, options, sizeof options / sizeof *options);
}

static void list_hyperparameters(struct train_arguments *a, struct option_list *list)
{
    struct train_config *c = &a->config;
#define HYPERPARAMETER_OPTION(name, kind, standard, min, max, help)                                                    \
    list->at[list->count++] = (struct option){#name,                                                                   \
                                              OPTION_KIND_##kind,                                                      \
                                              &c->hp.name,                                                             \
                                              OPTION_KIND_##kind == OPTION_FLAG ? NULL : "X",                          \
                                              HYPERPARAMETER_HELP_##kind(standard, min, help),                         \
                                              note_given(a, #name)};
    HYPERPARAMETERS(HYPERPARAMETER_OPTION)
    DPO_HYPERPARAMETERS(HYPERPARAMETER_OPTION)
#undef HYPERPARAMETER_OPTION
}

static void list_more(struct train_arguments *a, struct option_list *list)
{
    struct train_config *c = &a->config;
    const struct option options[] = {
        {NULL, 0, NULL, NULL, "more:", NULL},
        {"seed", OPTION_INT, &c->seed, "N", "of data order and initial values (0)", NULL},
        {"over-length", OPTION_TEXT, &a->over_length, "POLICY",
         "lines above context-length: drop, error or truncate (drop)", NULL},
        {"checkpoint-steps", OPTION_INT, &c->checkpoint_steps, "N", "a checkpoint every N steps besides each epoch's",
         NULL},
        {"keep-checkpoints", OPTION_INT, &c->keep_checkpoints, "N", "how many checkpoints stay, the newest (all)",
         NULL},
        {"eval-steps", OPTION_INT, &c->eval_steps, "N", "validation every N steps (20 times a run)", NULL},
        {"recovery-steps", OPTION_INT, &c->recovery_steps, "N", "a recovery point every N steps (every 2 minutes)",
         NULL},
        {"gradient-norms", OPTION_FLAG, &c->has_gradient_norms, NULL,
         "every step's event has the norm of each parameter's gradient before clipping (no)", NULL},
        {"tensorboard", OPTION_FLAG, &c->has_tensorboard, NULL, "an event file for TensorBoard, in OUT/run/tensorboard",
         NULL},
        {"lora-target-modules", OPTION_TEXT, &a->targets, "A,B", "what the adapter adapts (all linear layers)", NULL},
        {"exclude-modules", OPTION_TEXT, &a->excluded, "A,B", "what it does not", NULL},
        {"layers-to-transform", OPTION_TEXT, &a->layers, "N,N", "layers that it adapts (all)", NULL},
        {"rank-pattern", OPTION_TEXT, &a->rank_pattern, "A=N,B=N", "ranks other than lora-r, by module", NULL},
        {"alpha-pattern", OPTION_TEXT, &a->alpha_pattern, "A=X,B=X", "the same of lora-alpha", NULL},
        {"modules-to-save", OPTION_TEXT, &a->saved, "A,B",
         "trained whole beside the adapter: embed_tokens, lm_head, norms", NULL},
        {"use-rslora", OPTION_FLAG, &c->lora.is_rslora, NULL, "scale by lora-alpha / sqrt(lora-r)", NULL},
        {"use-dora", OPTION_FLAG, &c->lora.is_dora, NULL, "train magnitudes of rows apart (DoRA)", NULL},
        {"lr-scheduler-type", OPTION_TEXT, &a->schedule, "NAME",
         "linear, cosine, constant, constant_with_warmup (linear)", NULL},
        {"init", OPTION_TEXT, &a->init, "HOW", "model or random: weights drawn anew from config.json (model)", NULL},
        {"dtype", OPTION_TEXT, &a->dtype, "TYPE", "auto, float32 or bfloat16 (auto)", NULL},
        {"quantization", OPTION_TEXT, &a->quantization, "TYPE",
         "none or nf4: with --lora, frozen linear layers of four bits (none)", NULL},
        {"fp8", OPTION_FLAG, &c->is_fp8, NULL,
         "products of attention and MLP in eight bits, for GPUs: a processor computes the same numbers, slowly (no)",
         NULL},
        {"optim", OPTION_TEXT, &a->optim, "NAME",
         "adamw_torch; adamw_bf16: weights, gradients and moments in bf16, stochastically rounded, 8 bytes a "
         "parameter; adamw_8bit: the same with moments in bytes, 6 bytes (adamw_torch)",
         NULL},
        {"device", OPTION_TEXT, &c->device, "NAME", "cpu, or a GPU with libattune_cuda.so: cuda, cuda:1 (cpu)", NULL},
        {"threads", OPTION_INT, &c->threads, "N", "processor threads (all)", NULL},
        {"memory-bytes", OPTION_INT, &c->memory_bytes, "N",
         "memory that the plan may use, of the device (no limit; a GPU's: what is free)", NULL},
    };

    add_options(list, options, sizeof options / sizeof *options);
}

bool train_arguments_path(struct arena *arena, const char *what, const char *path, const char **result,
                          struct err *err)
{
    *result = path_absolute(arena, path, err);
    return *result || err_prefix(err, "--%s", what);
}

static bool absolute_file(struct arena *arena, const char *what, const char *path, struct train_file *file,
                          struct err *err)
{
    if (!train_arguments_path(arena, what, path, &file->path, err))
        return false;
    file->id = "";
    file->name = path_name(path);
    return true;
}

/* The next of "A,B,C"; false at the end. */
static bool next_item(struct str *rest, struct str *item)
{
    ptrdiff_t comma = str_find(*rest, STR(","), 0);
    size_t end = comma < 0 ? rest->len : (size_t)comma;

    if (rest->len == 0)
        return false;
    *item = str_trim(str_slice(*rest, 0, end));
    *rest = str_slice(*rest, end + 1, rest->len);
    return true;
}

static void split_names(struct arena *arena, const char *text, struct lora_names *names)
{
    struct str rest = str_of(text), item;
    const char **list = arena_new_array(arena, const char *, rest.len + 1);

    if (!text)
        return;
    while (next_item(&rest, &item))
        list[names->count++] = str_copy(arena, item);
    names->name = list;
}

static bool split_layers(struct arena *arena, const char *text, struct lora_config *lora, struct err *err)
{
    struct str rest = str_of(text), item;
    int32_t *list = arena_new_array(arena, int32_t, rest.len + 1);
    int64_t layer;

    while (next_item(&rest, &item)) {
        if (!str_to_i64(item, &layer) || layer < 0 || layer > INT32_MAX)
            return err_set(err, ERR_INPUT, "--layers-to-transform takes numbers of layers, not '%.*s'", STR_ARG(item));
        list[lora->layer_count++] = (int32_t)layer;
    }
    lora->layers = text ? list : NULL;
    return true;
}

static bool split_patterns(struct arena *arena, const char *option, const char *text, struct lora_patterns *patterns,
                           struct err *err)
{
    struct str rest = str_of(text), item;
    struct lora_pattern *list = arena_new_array(arena, struct lora_pattern, rest.len + 1);

    while (next_item(&rest, &item)) {
        ptrdiff_t equals = str_find(item, STR("="), 0);
        struct lora_pattern *pattern = &list[patterns->count++];
        if (equals < 1 || !str_to_double(str_slice(item, (size_t)equals + 1, item.len), &pattern->value))
            return err_set(err, ERR_INPUT, "--%s takes names with numbers, such as q_proj=4, not '%.*s'", option,
                           STR_ARG(item));
        pattern->regex = str_copy(arena, str_slice(item, 0, (size_t)equals));
    }
    patterns->at = list;
    return true;
}

static bool make_lora(struct arena *arena, const struct train_arguments *a, struct lora_config *lora, struct err *err)
{
    split_names(arena, a->targets, &lora->targets);
    split_names(arena, a->excluded, &lora->excluded);
    split_names(arena, a->saved, &lora->saved);
    return split_layers(arena, a->layers, lora, err) &&
           split_patterns(arena, "rank-pattern", a->rank_pattern, &lora->rank_pattern, err) &&
           split_patterns(arena, "alpha-pattern", a->alpha_pattern, &lora->alpha_pattern, err);
}

static bool name_optimizer(struct train_arguments *a, struct err *err)
{
    const char *conflict;

    if (!train_optim_find(str_of(a->optim), &a->config.optim))
        return err_set(err, ERR_INPUT, "--optim takes adamw_torch, adamw_bf16 or adamw_8bit, not '%s'", a->optim);
    conflict = a->adapter && a->config.optim != OPTIM_ADAMW_TORCH
                   ? "adamw_bf16 and adamw_8bit are for full fine-tuning, not for --adapter"
                   : train_optim_conflict(&a->config);
    return !conflict || err_set(err, ERR_INPUT, "--optim: %s", conflict);
}

static bool name_choices(struct train_arguments *a, struct err *err)
{
    struct train_config *c = &a->config;
    const char *conflict;

    if (!over_length_find(str_of(a->over_length), &c->over_length))
        return err_set(err, ERR_INPUT, "--over-length takes drop, error or truncate, not '%s'", a->over_length);
    if (!schedule_find(str_of(a->schedule), &c->schedule))
        return err_set(err, ERR_INPUT, "--lr-scheduler-type: there is no '%s'", a->schedule);
    if (strcmp(a->init, "random") != 0 && strcmp(a->init, "model") != 0)
        return err_set(err, ERR_INPUT, "--init takes model or random, not '%s'", a->init);
    c->is_random = strcmp(a->init, "random") == 0;
    if (!train_dtype_find(str_of(a->dtype), &c->dtype))
        return err_set(err, ERR_INPUT, "--dtype takes auto, float32 or bfloat16, not '%s'", a->dtype);
    c->is_nf4 = strcmp(a->quantization, "nf4") == 0;
    if (!c->is_nf4 && strcmp(a->quantization, "none") != 0)
        return err_set(err, ERR_INPUT, "--quantization takes none or nf4, not '%s'", a->quantization);
    if (c->is_nf4 && !c->hp.lora && !a->adapter)
        return err_set(err, ERR_INPUT, "--quantization nf4 goes with --lora: weights of four bits do not train");
    conflict = train_fp8_conflict(c);
    if (conflict)
        return err_set(err, ERR_INPUT, "--fp8 %s", conflict);
    return name_optimizer(a, err);
}

static bool choose_method(struct train_arguments *a, struct err *err)
{
    struct train_config *c = &a->config;
    const char *name, *conflict;

    if (!method_find(str_of(a->method), &c->method))
        return err_set(err, ERR_INPUT, "--method takes supervised or dpo, not '%s'", a->method);
    hyperparameters_settle(&c->hp, c->method, &a->given);
    conflict = hyperparameters_conflict(&c->hp, c->method, &a->given, &name);
    return !conflict || err_set(err, ERR_INPUT, "--%s %s", name, conflict);
}

#define CHECK_RANGE(name, kind, standard, min, max, help)                                                              \
    if (!((double)hp->name >= (min) && (double)hp->name <= (max)) && !is_default_length(hp, &hp->name))                \
        return err_set(err, ERR_INPUT, "--%s must be from %.9g to %.9g, not %.9g", #name, (double)(min),               \
                       (double)(max), (double)hp->name);

/* context_length 0 stands for the default, which the model's config decides. */
static bool is_default_length(const struct hyperparameters *hp, const void *field)
{
    return field == &hp->context_length && hp->context_length == 0;
}

static bool check_ranges(const struct hyperparameters *hp, enum method method, struct err *err)
{
    HYPERPARAMETERS(CHECK_RANGE)
    if (method == METHOD_DPO) {
        DPO_HYPERPARAMETERS(CHECK_RANGE)
    }
    return true;
}
#undef CHECK_RANGE

/* All that the line says by itself, before anything is looked for or made. */
static bool check_line(struct arena *arena, struct train_arguments *a, struct err *err)
{
    if (!a->run && !a->out)
        return err_set(err, ERR_INPUT, "--run or --out is missing (see --help)");
    if (a->config.device && !device_name_is_valid(a->config.device))
        return err_set(err, ERR_INPUT, "--device takes cpu, cuda or cuda:N, not '%s'", a->config.device);
    if (a->run)
        return true;
    if (!a->model || !a->train)
        return err_set(err, ERR_INPUT, "--%s is missing (see --help)", a->model ? "train" : "model");
    return name_choices(a, err) && choose_method(a, err) && check_ranges(&a->config.hp, a->config.method, err) &&
           make_lora(arena, a, &a->config.lora, err);
}

bool train_arguments_read(struct arena *arena, struct train_arguments *a, int argc, char **argv, struct err *err)
{
    struct option_list list = {0};
    struct options options = {
        .usage = "attune train --model DIR --train FILE --out DIR [options]\n       attune train --run DIR --attempt N",
        .about = "Trains a model, or an adapter for it, and prints the path of the last checkpoint.",
        .list = list.at,
    };

    *a = (struct train_arguments){.attempt = 1,
                                  .method = "supervised",
                                  .over_length = "drop",
                                  .schedule = "linear",
                                  .init = "model",
                                  .dtype = "auto",
                                  .quantization = "none",
                                  .optim = "adamw_torch",
                                  .config = {.hp = HYPERPARAMETERS_DEFAULT, .has_tensorboard = true}};
    list_what_runs(a, &list);
    list_hyperparameters(a, &list);
    list_more(a, &list);
    options.count = list.count;
    return options_parse(&options, argc, argv, NULL, NULL, err) && check_line(arena, a, err);
}

/* A folder, else what the Hub's cache has of that name. */
static bool find_model(struct arena *arena, struct train_arguments *a, struct err *err)
{
    const char *cache = hub_cache_default(arena), *folder = NULL;

    if (!dir_exists(a->model) && cache && hub_name_is_repo(str_of(a->model)))
        folder = hub_cache_find(arena, cache, a->model, NULL);
    if (!folder && !train_arguments_path(arena, "model", a->model, &a->config.model_path, err))
        return false;
    if (folder)
        a->config.model_path = folder;
    a->config.model_id = folder ? a->model : path_name(a->config.model_path);
    return true;
}

bool train_arguments_settle(struct arena *arena, struct train_arguments *a, const char *dir, struct err *err)
{
    struct train_config *c = &a->config;

    if (!c->device)
        c->device = "cpu";
    if (!find_model(arena, a, err) || !absolute_file(arena, "train", a->train, &c->train, err) ||
        (a->valid && !absolute_file(arena, "valid", a->valid, &c->valid, err)) ||
        (a->adapter && !train_arguments_path(arena, "adapter", a->adapter, &c->adapter_path, err)))
        return false;
    c->id = "local";
    c->output_name = "";
    c->cache = path_join(arena, dir, "cache");
    c->now = clock_unix();
    return true;
}
