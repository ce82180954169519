#include "train/train_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { FEW_STEPS = 10, MANY_EPOCHS = 10 };

static void warn(warning_fn *take, void *context, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void warn(warning_fn *take, void *context, const char *code, const char *format, ...)
{
    struct arena arena = {0};
    va_list args;

    va_start(args, format);
    take(context, code, arena_vprintf(&arena, format, args));
    va_end(args);
    arena_deinit(&arena);
}

static void name_lines(const char *which, const char *what, const uint64_t *named, uint64_t count, const char *fate,
                       warning_fn *take, void *context)
{
    struct strbuf lines = {0};
    char code[64];

    if (count == 0)
        return;
    for (uint64_t i = 0; i < count && i < DATASET_LINES_NAMED; i++)
        strbuf_printf(&lines, "%s%" PRIu64, i ? ", " : "", named[i]);
    snprintf(code, sizeof code, "%s_%s", which, what);
    warn(take, context, code, "%s: %" PRIu64 " line%s %s: %s%s", which, count, count == 1 ? "" : "s", fate, lines.at,
         count > DATASET_LINES_NAMED ? ", …" : "");
    strbuf_deinit(&lines);
}

void warn_of_lines(const char *which, const struct dataset_summary *sum, warning_fn *take, void *context)
{
    char over[96];

    snprintf(over, sizeof over, "longer than context_length %u tokens %s", sum->context_length,
             sum->policy == OVER_LENGTH_TRUNCATE ? "cut" : "left out");
    name_lines(which, "over_length", sum->over_length_named, sum->over_length_lines, over, take, context);
    name_lines(which, "untrained", sum->untrained_named, sum->untrained_lines,
               "left out because nothing in them trains", take, context);
}

void warn_of_run(const struct session *s, warning_fn *take, void *context)
{
    const struct hyperparameters *hp = &s->config.hp;

    if (s->total_steps < FEW_STEPS)
        warn(take, context, "few_steps",
             "%" PRId64 " optimizer steps will hardly move the model: lower batch_size (now %" PRId64
             "), raise n_epochs or learning_rate%s",
             s->total_steps, hp->batch_size, hp->packing ? ", or set packing to false" : "");
    if (s->config.is_fp8 && !s->backend->memory)
        warn(take, context, "fp8_without_gpu",
             "fp8 is for GPUs: a processor computes the same numbers, more slowly than without it");
    if (hp->lora && s->config.method != METHOD_DPO && hp->learning_rate == HYPERPARAMETERS_DEFAULT.learning_rate)
        warn(take, context, "lora_default_rate",
             "learning_rate is at its default 1e-5, which is little for LoRA: 1e-4 to 2e-4 is usual");
}

void warn_of_settings(const struct session *s, warning_fn *take, void *context)
{
    const struct dataset_summary *sum = &s->train.summary;
    int64_t epochs = s->config.hp.n_epochs;

    warn_of_run(s, take, context);
    if (s->has_valid && strcmp(sum->file_hash, s->valid.summary.file_hash) == 0)
        warn(take, context, "validation_is_training",
             "The validation file is the training file: its loss will not tell what the model makes of new text");
    if (epochs > MANY_EPOCHS)
        warn(take, context, "many_epochs",
             "Every line is read %" PRId64 " times: the model will know them by heart; watch the validation loss, or "
             "lower n_epochs",
             epochs);
    if (sum->longest * 2 <= s->context_length)
        warn(take, context, "long_context",
             "context_length is %u, the longest line has %" PRIu64 " tokens: %s", s->context_length, sum->longest,
             s->config.hp.packing ? "more lines go into a row, and an epoch has fewer steps"
                                  : "a smaller one trains the same");
}

void warning_event(void *context, const char *code, const char *text)
{
    struct warning_events *events = context;

    events->ok = events->ok && run_message(events->run, "warn", code, 0, events->err, "%s", text);
}
