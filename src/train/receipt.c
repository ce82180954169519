#include "compute/device.h"
#include "os/process.h"
#include "train/train_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { RECEIPT_FORMAT = 1, PROBE_EXAMPLES_MAX = 8, PATH_BYTES = 4096 };

enum verdict { VERDICT_PASS, VERDICT_WARN, VERDICT_FAIL };

static const char *verdict_name(enum verdict verdict)
{
    static const char *const names[] = {"pass", "warn", "fail"};

    return names[verdict];
}

static bool beat(void *context)
{
    struct session *s = context;

    return run_beat(&s->run, NULL);
}

static bool put_file_hash(struct session *s, struct json_writer *w, const char *key, const char *path, struct err *err)
{
    uint64_t bytes;
    char hex[65];

    if (!file_sha256(path, &bytes, hex, beat, s, err))
        return false;
    json_put_text(w, key, hex);
    return true;
}

/* Every file of a model or adapter that its tensors come from. */
static bool put_folder(struct session *s, struct json_writer *w, const char *folder, bool has_weights, struct err *err)
{
    struct arena arena = {0};
    char **names;
    size_t count;
    bool ok = dir_list(&arena, folder, &names, &count, err);

    json_write_begin_object(w);
    for (size_t i = 0; ok && i < count; i++) {
        struct str name = str_of(names[i]);
        if (str_is(name, "config.json") || str_is(name, "adapter_config.json") || str_is(name, "tokenizer.json") ||
            (has_weights && str_ends(name, STR(".safetensors"))))
            ok = put_file_hash(s, w, names[i], path_join(&arena, folder, names[i]), err);
    }
    json_write_end_object(w);
    arena_deinit(&arena);
    return ok;
}

static bool put_hashes(struct session *s, struct json_writer *w, struct err *err)
{
    const struct dataset_summary *train = &s->train.summary;
    char program[PATH_BYTES];

    json_write_key(w, "sha256");
    json_write_begin_object(w);
    json_put_text(w, "job", s->config.hash);
    json_put_text(w, "training_file", train->file_hash);
    json_put_text(w, "validation_file", s->has_valid ? s->valid.summary.file_hash : NULL);
    json_put_text(w, "tokenizer", train->tokenizer_hash);
    json_put_text(w, "chat_template", train->template_hash[0] ? train->template_hash : NULL);
    if (!process_self_path(program, sizeof program, err) || !put_file_hash(s, w, "program", program, err))
        return false;
    json_write_key(w, "base");
    if (!put_folder(s, w, s->config.model_path, !s->config.is_random, err))
        return false;
    json_write_key(w, "adapter");
    if (!s->config.adapter_path)
        json_write_null(w);
    else if (!put_folder(s, w, s->config.adapter_path, true, err))
        return false;
    json_write_end_object(w);
    return true;
}

static void put_figures(struct session *s, struct json_writer *w)
{
    json_put_integer(w, "steps", s->progress.step);
    json_put_integer(w, "trained_tokens", s->progress.trained_tokens);
    json_put_integer(w, "supervised_tokens", s->progress.supervised_tokens);
    json_put_integer(w, "trainable_parameters", (int64_t)model_params(s->model)->trained_count);
    json_put_text(w, "quantization", model_config(s->model)->quantization.is_nf4 ? "nf4" : "none");
    json_put_bool(w, "fp8", s->config.is_fp8);
    json_put_text(w, "optim", train_optim_name(s->config.optim));
    json_put_number(w, "first_loss", s->progress.first_loss);
    json_put_number(w, "last_loss", s->progress.last_loss);
    json_put_integer(w, "examples", (int64_t)s->train.summary.examples);
    json_put_integer(w, "over_length_lines", (int64_t)s->train.summary.over_length_lines);
    json_put_integer(w, "untrained_lines", (int64_t)s->train.summary.untrained_lines);
}

/* What the last attempt ran on. */
static void put_device(const struct session *s, struct json_writer *w)
{
    struct device_info info;
    bool is_gpu = s->backend->memory && device_describe(s->device, &info, NULL);

    json_put_text(w, "device", s->config.device);
    json_put_text(w, "device_name", is_gpu ? info.name : NULL);
    json_put_bool(w, "moments_on_host", model_plan_used(s->model)->moments_on_host);
}

static void put_verdict(struct json_writer *w, enum verdict verdict, enum verdict *worst)
{
    json_put_text(w, "verdict", verdict_name(verdict));
    json_write_end_object(w);
    if (verdict > *worst)
        *worst = verdict;
}

static void begin_probe(struct json_writer *w, const char *name)
{
    json_write_begin_object(w);
    json_put_text(w, "name", name);
}

/* Every turn that trains should end with the token that stops generation, or the model never learns to stop. */
static void probe_stop_token(struct session *s, struct json_writer *w, enum verdict *worst)
{
    const struct dataset_summary *sum = &s->train.summary;

    if (sum->turns == 0) /* token_ids: nobody knows where a turn ends */
        return;
    begin_probe(w, "stop_token_trained");
    json_put_integer(w, "turns", (int64_t)sum->turns);
    json_put_integer(w, "with_stop_token", (int64_t)sum->stopped_turns);
    put_verdict(w, sum->stopped_turns == sum->turns ? VERDICT_PASS : VERDICT_WARN, worst);
}

/* Every token that the data marks was scored once an epoch, no more and no less. */
static void probe_supervised_tokens(struct session *s, struct json_writer *w, enum verdict *worst)
{
    int64_t expected = (int64_t)s->train.summary.trained_tokens * s->config.hp.n_epochs;

    begin_probe(w, "supervised_tokens");
    json_put_integer(w, "in_the_data", expected);
    json_put_integer(w, "scored", s->progress.supervised_tokens);
    put_verdict(w, s->progress.supervised_tokens == expected ? VERDICT_PASS : VERDICT_FAIL, worst);
}

static void probe_dropped_lines(struct session *s, struct json_writer *w, enum verdict *worst)
{
    const struct dataset_summary *sum = &s->train.summary;
    bool is_clean = sum->over_length_lines == 0 && sum->untrained_lines == 0;

    begin_probe(w, "dropped_lines");
    json_put_integer(w, "examples", (int64_t)sum->examples);
    json_put_integer(w, "over_length_lines", (int64_t)sum->over_length_lines);
    json_put_integer(w, "untrained_lines", (int64_t)sum->untrained_lines);
    put_verdict(w, is_clean ? VERDICT_PASS : VERDICT_WARN, worst);
}

static enum verdict verdict_of(double difference, double pass_below, double fail_above)
{
    return difference <= pass_below ? VERDICT_PASS : difference <= fail_above ? VERDICT_WARN : VERDICT_FAIL;
}

/* Mean loss of the examples, several to a micro-batch or each alone. */
static double probe_loss(struct session *s, const uint32_t *example, uint32_t count, uint32_t max_docs)
{
    struct model_result sum = {0};
    struct feed_step step;

    arena_reset(&s->step_arena);
    feed_examples_make(&s->train, &s->step_arena, example, count, 1, (uint32_t)model_plan_used(s->model)->tokens,
                       max_docs, &step);
    for (int i = 0; i < step.micro_count; i++)
        model_forward_backward(s->model, &step.micro[i].batch, false, &(struct model_step){0}, &sum);
    return sum.nll_sum / (double)sum.row_count;
}

/* Documents of one stream must not see each other: their losses together are what they are alone. */
static void probe_packing(struct session *s, struct json_writer *w, enum verdict *worst)
{
    bool is_f32 = model_params(s->model)->compute_type != DTYPE_BF16;
    double pass_below = is_f32 ? 1e-5 : 1e-2, fail_above = is_f32 ? 1e-3 : 1e-1, together, alone, difference;
    uint32_t example[PROBE_EXAMPLES_MAX], count = 0;

    while (count < PROBE_EXAMPLES_MAX && count < s->train.count) {
        example[count] = count;
        count++;
    }
    together = probe_loss(s, example, count, 0);
    alone = probe_loss(s, example, count, 1);
    difference = fabs(together - alone) / fmax(fabs(alone), 1e-12);
    begin_probe(w, "packed_equals_unpacked");
    json_put_integer(w, "examples", count);
    json_put_number(w, "packed_loss", together);
    json_put_number(w, "unpacked_loss", alone);
    json_put_number(w, "relative_difference", difference);
    json_put_number(w, "pass_below", pass_below);
    put_verdict(w, verdict_of(difference, pass_below, fail_above), worst);
}

/* The thresholds follow the shortest type on the way: that of products, or that of the files, to which merged weights
 * are rounded. */
static void probe_merge(struct session *s, struct json_writer *w, enum verdict *worst)
{
    const struct params *params = model_params(s->model);
    bool is_f32 = params->compute_type == DTYPE_F32 && s->model_config.dtype == DTYPE_F32;
    double pass_below = is_f32 ? 1e-5 : 3e-2, fail_above = is_f32 ? 1e-3 : 3e-1;
    struct merge_probe probe;
    struct feed_step step;
    uint32_t first = 0;

    /* codes are not merged into, and products in eight bits are not those of a merged model */
    if (!params->lora_rank || model_config(s->model)->quantization.is_nf4 || s->config.is_fp8)
        return;
    arena_reset(&s->step_arena);
    feed_examples_make(&s->train, &s->step_arena, &first, 1, 1, (uint32_t)model_plan_used(s->model)->tokens, 1,
                       &step);
    model_probe_merge(s->model, &step.micro[0].batch, &probe);
    begin_probe(w, "merged_equals_adapter");
    json_put_integer(w, "products", probe.product_count);
    json_put_number(w, "product_difference", probe.product_difference);
    json_put_text(w, "largest_at", probe.product);
    json_put_number(w, "logit_difference", probe.logit_difference);
    json_put_number(w, "pass_below", pass_below);
    put_verdict(w, verdict_of(fmax(probe.product_difference, probe.logit_difference), pass_below, fail_above), worst);
}

static bool put_receipt(struct session *s, struct json_writer *w, struct err *err)
{
    enum verdict worst = VERDICT_PASS;

    json_write_begin_object(w);
    json_put_integer(w, "format", RECEIPT_FORMAT);
    json_put_text(w, "job", s->config.id);
    json_put_integer(w, "attempt", s->run.attempt);
    json_put_text(w, "version", ATTUNE_VERSION);
    put_device(s, w);
    json_put_text(w, "checkpoint", s->last_checkpoint);
    put_figures(s, w);
    if (!put_hashes(s, w, err))
        return false;
    json_write_key(w, "probes");
    json_write_begin_array(w);
    probe_supervised_tokens(s, w, &worst);
    probe_dropped_lines(s, w, &worst);
    probe_stop_token(s, w, &worst);
    probe_packing(s, w, &worst);
    probe_merge(s, w, &worst);
    json_write_end_array(w);
    json_put_text(w, "verdict", verdict_name(worst));
    json_write_end_object(w);
    return true;
}

bool receipt_write(struct session *s, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 1};
    bool ok = put_receipt(s, &w, err);

    strbuf_add_char(&text, '\n');
    ok = ok && file_replace(path_join(&s->arena, s->options->dir, "receipt.json"), strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok || err_prefix(err, "receipt");
}
