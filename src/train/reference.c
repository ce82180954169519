/* The reference that DPO measures against: log-probabilities of every completion under the model as the run begins.
 *
 * They are taken once, before the first step, and kept in the run directory; so no second copy of the weights is
 * needed. A new adapter begins as nothing (its B is zero), so what is measured is the base with the adapter off; a run
 * that goes on training an adapter has that adapter as its reference, as TRL does. */
#include "train/train_int.h"

#include <string.h>

enum { REFERENCE_FORMAT = 1, CHUNK_SEQUENCES = 64, STATE_BYTES_MAX = 1 << 16 };
#define LOGPS_BYTES_MAX ((size_t)1 << 36)

static bool measure(struct session *s, const struct dataset *data, double *reference, struct err *err)
{
    uint32_t tokens_max = (uint32_t)model_plan_used(s->model)->tokens;

    for (uint32_t first = 0; first < data->count; first += CHUNK_SEQUENCES) {
        uint32_t sequence[CHUNK_SEQUENCES], count = 0;
        struct feed_step step;

        arena_reset(&s->step_arena);
        while (count < CHUNK_SEQUENCES && first + count < data->count) {
            sequence[count] = first + count;
            count++;
        }
        feed_examples_make(data, &s->step_arena, sequence, count, 2, tokens_max, 0, &step);
        for (int i = 0; i < step.micro_count; i++) {
            const struct micro_batch *micro = &step.micro[i];
            model_forward_backward(s->model, &micro->batch, false, &(struct model_step){0}, &(struct model_result){0});
            dpo_logps(s->model, &micro->batch, reference + micro->example[0]); /* neighbours in the data set */
            if (!run_beat(&s->run, err))
                return false;
        }
        if (run_wanted(&s->run) != RUN_GO_ON)
            return err_set(err, ERR_CANCELLED, "cancelled while the reference was measured");
    }
    return true;
}

static void write_state(const struct session *s, struct strbuf *out)
{
    struct json_writer w = {.buf = out, .indent = 1};

    json_write_begin_object(&w);
    json_put_integer(&w, "format", REFERENCE_FORMAT);
    json_put_integer(&w, "training_sequences", s->train.count);
    json_put_integer(&w, "validation_sequences", s->valid.count);
    json_put_text(&w, "job_sha256", s->config.hash);
    json_put_text(&w, "base_sha256", s->base_hash);
    json_put_text(&w, "data_sha256", s->data_hash);
    json_write_end_object(&w);
    strbuf_add_char(out, '\n');
}

/* state.json says what the numbers belong to, byte for byte. */
static bool write_reference(struct session *s, struct arena *arena, const char *path, struct str logps, struct err *err)
{
    struct checkpoint_file file[2];
    struct checkpoint_files files = {.file = file};
    struct folder_label label = {s->config.id, "reference", s->run.attempt, 0};
    struct strbuf state = {0};
    const char *temporary;
    bool ok;

    write_state(s, &state);
    ok = folder_begin(arena, path, logps.len, &temporary, err) &&
         folder_add_file(arena, temporary, "state.json", strbuf_view(&state), &files, err) &&
         folder_add_file(arena, temporary, "logps.bin", logps, &files, err) &&
         folder_commit(temporary, path, &label, &files, err);
    strbuf_deinit(&state);
    return ok;
}

static bool read_reference(const struct session *s, struct arena *arena, const char *path, double *logps, size_t bytes,
                           struct err *err)
{
    struct strbuf expected = {0};
    struct str state, text;
    bool is_same;

    if (!folder_verify(path, err) ||
        !file_read(arena, path_join(arena, path, "state.json"), STATE_BYTES_MAX, &state, err) ||
        !file_read(arena, path_join(arena, path, "logps.bin"), LOGPS_BYTES_MAX, &text, err))
        return false;
    write_state(s, &expected);
    is_same = str_equal(state, strbuf_view(&expected)) && text.len == bytes;
    strbuf_deinit(&expected);
    if (!is_same)
        return err_set(err, ERR_CONFLICT, "%s belongs to another job, base model or data", path);
    memcpy(logps, text.at, bytes);
    return true;
}

bool reference_open(struct session *s, struct err *err)
{
    size_t count = (size_t)s->train.count + s->valid.count, bytes = count * sizeof(double);
    double *logps = arena_new_array(&s->arena, double, count);
    const char *path = path_join(&s->arena, s->options->dir, "reference");
    struct arena arena = {0};
    struct err reading = {0};
    bool ok = dir_exists(path) && read_reference(s, &arena, path, logps, bytes, &reading);

    s->reference_train = logps;
    s->reference_valid = logps + s->train.count;
    if (!ok)
        ok = measure(s, &s->train, logps, err) && measure(s, &s->valid, logps + s->train.count, err) &&
             dir_remove(path, err) && write_reference(s, &arena, path, (struct str){(const char *)logps, bytes}, err);
    arena_deinit(&arena);
    return ok || err_prefix(err, "reference");
}
