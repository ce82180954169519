/* attune bench tokenize, attune bench prepare - the data path, for the scripts in bench/ that compare it with its
 * peers. */
#include "cli/bench.h"

#include "base/json.h"
#include "cli/encoder.h"
#include "cli/options.h"
#include "data/pack.h"
#include "data/prepare.h"
#include "os/clock.h"
#include "os/file.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TEXTS_BYTES_MAX = 1 << 30, RUNS_MIN = 5 };

/* Processor time of all threads: neighbours on the machine do not count. */
static double processor_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print_line(struct json_writer *w)
{
    json_write_end_object(w);
    printf("%.*s\n", STR_ARG(strbuf_view(w->buf)));
    strbuf_deinit(w->buf);
}

struct texts {
    struct str *text;
    size_t count, bytes;
};

/* JSON Lines {"text": "…"}. */
static bool read_texts(struct arena *arena, const char *path, struct texts *texts, struct err *err)
{
    struct str file, line;
    size_t lines = 1;

    if (!file_read(arena, path, TEXTS_BYTES_MAX, &file, err))
        return false;
    for (size_t i = 0; i < file.len; i++)
        lines += file.at[i] == '\n';
    texts->text = arena_new_array(arena, struct str, lines);
    for (size_t at = 0; at < file.len; at += line.len + 1) {
        ptrdiff_t end = str_find(file, STR("\n"), at);
        const struct json *text;

        line = str_slice(file, at, end < 0 ? file.len : (size_t)end);
        text = json_get(json_parse(arena, line, NULL, err), "text");
        if (!json_has_type(text, JSON_STRING))
            return err_set(err, ERR_INPUT, "%s: a line has no text", path);
        texts->text[texts->count++] = text->string;
        texts->bytes += text->string.len;
    }
    return texts->count > 0 || err_set(err, ERR_INPUT, "%s is empty", path);
}

/* Tokens of all texts; out (optional) takes the ids, each text's followed by -1. */
static bool encode_all(const struct tokenizer *tok, struct tokenizer_scratch *scratch, const struct texts *texts,
                       struct strbuf *out, size_t *count, struct err *err)
{
    static const int32_t end = -1;
    struct token_list list = {0};
    bool ok = true;

    *count = 0;
    for (size_t i = 0; ok && i < texts->count; i++) {
        token_list_clear(&list);
        ok = tokenizer_encode(tok, scratch, texts->text[i], false, &list, err);
        *count += list.count;
        if (out) {
            strbuf_add(out, list.ids, list.count * sizeof *list.ids);
            strbuf_add(out, &end, sizeof end);
        }
    }
    token_list_deinit(&list);
    return ok;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static bool write_ids(const struct tokenizer *tok, struct tokenizer_scratch *scratch, const struct texts *texts,
                      const char *path, struct err *err)
{
    struct strbuf ids = {0};
    size_t count;
    bool ok = encode_all(tok, scratch, texts, &ids, &count, err) && file_swap(path, strbuf_view(&ids), err);

    strbuf_deinit(&ids);
    return ok;
}

/* Runs begin with what the runs before them left in the cache of words, as encoding a large file does; the first has
 * an empty one and is told beside the median. */
static bool time_tokenizer(const struct tokenizer *tok, const struct texts *texts, const char *ids_path, int64_t runs,
                           struct json_writer *w, struct err *err)
{
    struct tokenizer_scratch *scratch = tokenizer_scratch_new(tok);
    double *seconds = mem_alloc((size_t)runs * sizeof *seconds), first;
    size_t count = 0;
    bool ok = true;

    for (int64_t i = 0; ok && i < runs; i++) {
        double begin = processor_seconds();

        ok = encode_all(tok, scratch, texts, NULL, &count, err);
        seconds[i] = processor_seconds() - begin;
    }
    first = seconds[0];
    qsort(seconds, (size_t)runs, sizeof *seconds, compare_doubles);
    json_put_integer(w, "texts", (int64_t)texts->count);
    json_put_integer(w, "bytes", (int64_t)texts->bytes);
    json_put_integer(w, "tokens", (int64_t)count);
    json_put_number(w, "first_seconds", first);
    json_put_number(w, "seconds", seconds[runs / 2]);
    ok = ok && (!ids_path || write_ids(tok, scratch, texts, ids_path, err));
    free(seconds);
    tokenizer_scratch_free(scratch);
    return ok;
}

int bench_tokenize(int argc, char **argv)
{
    const char *path = NULL, *ids = NULL, *tokenizer = NULL;
    int64_t runs = RUNS_MIN;
    const struct option list[] = {
        {"tokenizer", OPTION_TEXT, &tokenizer, "FILE", "tokenizer.json, or the folder that holds it", NULL},
        {"runs", OPTION_INT, &runs, "N", "how often all texts are encoded (5)", NULL},
        {"ids", OPTION_TEXT, &ids, "FILE", "write the ids there: int32, -1 behind each text", NULL},
    };
    const struct options options = {
        .usage = "attune bench tokenize --tokenizer FILE TEXTS.jsonl",
        .about = "Processor seconds to encode the texts of JSON Lines {\"text\"} on one thread.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .positional_min = 1,
        .positional_max = 1,
    };
    struct texts texts = {0};
    struct arena arena = {0};
    struct tokenizer *tok = NULL;
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};
    struct err err = {0};
    double begin;
    int count = 0;
    bool ok = options_parse(&options, argc - 1, argv + 1, &path, &count, &err) &&
              (tokenizer || err_set(&err, ERR_INPUT, "--tokenizer FILE is missing (see --help)")) &&
              (runs > 0 || err_set(&err, ERR_INPUT, "--runs is at least 1")) && read_texts(&arena, path, &texts, &err);

    begin = processor_seconds();
    tok = ok ? tokenizer_open(tokenizer, &err) : NULL;
    json_write_begin_object(&w);
    json_put_number(&w, "open_seconds", processor_seconds() - begin);
    ok = tok && time_tokenizer(tok, &texts, ids, runs, &w, &err);
    if (!ok)
        fprintf(stderr, "attune bench tokenize: %s\n", err.text);
    else
        print_line(&w);
    strbuf_deinit(&line);
    tokenizer_free(tok);
    arena_deinit(&arena);
    return ok ? 0 : 1;
}

struct preparing {
    const char *model, *path, *cache;
    int64_t context_length, threads;
};

/* Rows of the dataset, as a job with packing makes them. */
static uint32_t pack(const struct dataset *dataset, struct arena *arena, uint32_t capacity)
{
    uint32_t *length = arena_new_array(arena, uint32_t, dataset->count);

    for (uint32_t i = 0; i < dataset->count; i++)
        length[i] = dataset->entry[i].count;
    return pack_best_fit(arena, length, dataset->count, capacity).row_count;
}

static bool time_prepare(const struct preparing *job, struct arena *arena, struct json_writer *w, struct err *err)
{
    double begin = clock_monotonic(), opened, prepared, packed, processor = processor_seconds();
    struct encoder *encoder = encoder_of_model(arena, job->model, err);
    struct prepare_options options = {.encoder = encoder, .context_length = (uint32_t)job->context_length};
    struct dataset dataset = {0};
    const char *folder;
    uint32_t rows;
    bool ok;

    opened = clock_monotonic();
    options.pool = pool_new((int)job->threads);
    ok = encoder && prepare_file(job->path, path_name(job->path), job->cache, &options, arena, &folder, NULL, err);
    prepared = clock_monotonic();
    ok = ok && dataset_open(&dataset, folder, err);
    if (!ok)
        goto out;
    rows = pack(&dataset, arena, options.context_length);
    packed = clock_monotonic();
    json_put_integer(w, "bytes", (int64_t)dataset.summary.bytes);
    json_put_integer(w, "examples", (int64_t)dataset.summary.examples);
    json_put_integer(w, "tokens", (int64_t)dataset.summary.tokens);
    json_put_integer(w, "trained_tokens", (int64_t)dataset.summary.trained_tokens);
    json_put_integer(w, "rows", rows);
    json_put_integer(w, "threads", pool_thread_count(options.pool));
    json_put_number(w, "open_seconds", opened - begin);
    json_put_number(w, "prepare_seconds", prepared - opened);
    json_put_number(w, "pack_seconds", packed - prepared);
    json_put_number(w, "seconds", packed - begin);
    json_put_number(w, "processor_seconds", processor_seconds() - processor);
out:
    dataset_close(&dataset);
    pool_free(options.pool);
    encoder_free(encoder);
    return ok;
}

int bench_prepare(int argc, char **argv)
{
    struct preparing job = {.context_length = 1024};
    const struct option list[] = {
        {"model", OPTION_TEXT, &job.model, "DIR", "whose tokenizer and chat template are used", NULL},
        {"cache", OPTION_TEXT, &job.cache, "DIR", "where the tokens go; what is there already is not made again", NULL},
        {"context-length", OPTION_INT, &job.context_length, "N", "tokens of a row (1024)", NULL},
        {"threads", OPTION_INT, &job.threads, "N", "threads (one per core)", NULL},
    };
    const struct options options = {
        .usage = "attune bench prepare --model DIR --cache DIR FILE.jsonl",
        .about = "Seconds from a training file to packed rows: template, tokens, mask, rows.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .positional_min = 1,
        .positional_max = 1,
    };
    struct arena arena = {0};
    struct strbuf line = {0};
    struct json_writer w = {.buf = &line};
    struct err err = {0};
    int count = 0;
    bool ok = options_parse(&options, argc - 1, argv + 1, &job.path, &count, &err) &&
              ((job.model && job.cache) || err_set(&err, ERR_INPUT, "--model DIR and --cache DIR are needed")) &&
              (job.context_length >= 2 || err_set(&err, ERR_INPUT, "--context-length is at least 2")) &&
              dir_make(job.cache, &err);

    json_write_begin_object(&w);
    ok = ok && time_prepare(&job, &arena, &w, &err);
    if (!ok)
        fprintf(stderr, "attune bench prepare: %s\n", err.text);
    else
        print_line(&w);
    strbuf_deinit(&line);
    arena_deinit(&arena);
    return ok ? 0 : 1;
}
