/* attune prepare: the data of a run before it is trained on, and the answers that the server gives about it. The server
 * itself reads no models, tokenizers or training lines: it starts this command, which answers with one line of JSON. */
#include "cli/cli.h"
#include "cli/encoder.h"
#include "cli/options.h"
#include "data/preview.h"
#include "os/confine.h"
#include "train/train.h"

#include <stdio.h>
#include <unistd.h>

enum { JOB_BYTES_MAX = 8 << 20, PREVIEW_TOKENS_MAX = 16384, THREAD_BYTES = 16 << 20 };

struct arguments {
    const char *run, *preview, *model;
    bool is_estimate, is_on_device;
    int64_t line, count, memory_bytes;
};

/* What happened, or what is wrong, as the one line of output. */
static bool answer_error(struct strbuf *out, const char *param, const struct err *err)
{
    struct json_writer w = {.buf = out};

    strbuf_clear(out);
    json_write_begin_object(&w);
    json_write_key(&w, "error");
    json_write_begin_object(&w);
    json_put_text(&w, "code", err_code_name(err->code));
    json_put_text(&w, "message", err->text);
    json_put_text(&w, "param", param);
    json_write_end_object(&w);
    json_write_end_object(&w);
    return true;
}

static bool read_input(struct strbuf *text, struct err *err)
{
    char bytes[65536];
    size_t got;

    while ((got = fread(bytes, 1, sizeof bytes, stdin)) > 0) {
        strbuf_add(text, bytes, got);
        if (text->len > JOB_BYTES_MAX)
            return err_set(err, ERR_LIMIT, "the job is longer than %d bytes", JOB_BYTES_MAX);
    }
    return !ferror(stdin) || err_set(err, ERR_IO, "standard input cannot be read");
}

static bool estimate(const struct arguments *a, struct strbuf *out)
{
    struct json_writer w = {.buf = out};
    struct strbuf job = {0};
    const char *param = NULL;
    struct err err = {0};
    bool ok;

    json_write_begin_object(&w);
    json_write_key(&w, "estimate");
    ok = read_input(&job, &err) &&
         train_estimate(strbuf_view(&job), (uint64_t)a->memory_bytes / 2, &w, &param, &err);
    strbuf_deinit(&job);
    if (!ok)
        return answer_error(out, param, &err);
    json_write_end_object(&w);
    return true;
}

struct lines {
    struct strbuf *out;
    int64_t count;
};

static void add_line(void *context, struct str json)
{
    struct lines *lines = context;

    strbuf_add_text(lines->out, lines->count++ ? "," : "");
    strbuf_add_str(lines->out, json);
}

static bool preview(const struct arguments *a, struct strbuf *out)
{
    struct arena arena = {0};
    struct err err = {0};
    struct lines lines = {.out = out};
    struct preview_options options = {.form = PREVIEW_TOKENS,
                                      .first = (uint64_t)a->line,
                                      .count = (uint64_t)a->count,
                                      .tokens_max = PREVIEW_TOKENS_MAX,
                                      .on_line = add_line,
                                      .context = &lines};
    struct encoder *encoder = encoder_of_model(&arena, a->model, &err);
    bool ok;

    options.encoder = encoder;
    strbuf_add_text(out, "{\"lines\":[");
    ok = encoder && preview_file(a->preview, &options, &err) &&
         (lines.count > 0 || err_set(&err, ERR_NOT_FOUND, "The file has nothing in line %lld%s.", (long long)a->line,
                                     a->count > 1 ? " and behind it" : ""));
    strbuf_add_text(out, "]}");
    if (!ok)
        answer_error(out, encoder ? "line" : "model", &err);
    encoder_free(encoder);
    arena_deinit(&arena);
    return true;
}

/* The server's questions: one line on standard output, errors too. The answer's reader may be gone. */
static bool answer(const struct arguments *a, struct err *err)
{
    int64_t threads = sysconf(_SC_NPROCESSORS_ONLN), bound = a->memory_bytes + threads * THREAD_BYTES;
    struct strbuf out = {0};
    bool ok = confine_process(a->memory_bytes && !a->is_on_device ? bound : 0, err) &&
              (a->preview ? preview(a, &out) : estimate(a, &out));

    if (ok) {
        strbuf_add_char(&out, '\n');
        ok = fwrite(out.at, 1, out.len, stdout) == out.len && fflush(stdout) == 0;
        ok = ok || err_set(err, ERR_IO, "the answer cannot be written");
    }
    strbuf_deinit(&out);
    return ok;
}

static bool check(const struct arguments *a, struct err *err)
{
    if (!!a->run + !!a->preview + a->is_estimate != 1)
        return err_set(err, ERR_INPUT, "one of --run, --estimate and --preview is needed (see --help)");
    if (a->preview && !a->model)
        return err_set(err, ERR_INPUT, "--preview needs --model: tokens depend on it");
    if (a->line < 1 || a->count < 1 || a->memory_bytes < 0)
        return err_set(err, ERR_INPUT, "--line and --count are at least 1, --memory-bytes at least 0");
    return true;
}

int cli_prepare(int argc, char **argv)
{
    struct arguments a = {.line = 1, .count = 1};
    const struct option list[] = {
        {"run", OPTION_TEXT, &a.run, "DIR", "the run directory that holds job.json: links its tokens into it", NULL},
        {"estimate", OPTION_FLAG, &a.is_estimate, NULL,
         "what the job.json on standard input would be: tokens, steps, memory, time, warnings", NULL},
        {"on-device", OPTION_FLAG, &a.is_on_device, NULL,
         "with --estimate: the job's device is looked at, whose driver takes more memory of the host than is said",
         NULL},
        {"preview", OPTION_TEXT, &a.preview, "FILE", "lines of a training file, token by token", NULL},
        {"model", OPTION_TEXT, &a.model, "DIR", "with --preview: whose tokenizer and chat template are used", NULL},
        {"line", OPTION_INT, &a.line, "N", "with --preview: the first line (1)", NULL},
        {"count", OPTION_INT, &a.count, "N", "with --preview: how many (1)", NULL},
        {"memory-bytes", OPTION_INT, &a.memory_bytes, "N",
         "with --estimate and --preview: memory to work with; more is refused (no bound)", NULL},
    };
    const struct options options = {
        .usage = "attune prepare --run DIR | --estimate < job.json | --preview FILE --model DIR",
        .about = "Turns a run's data files into tokens in the shared cache, or answers a question of the server in "
                 "one line of JSON.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err) || !check(&a, &err)) {
        fprintf(stderr, "attune prepare: %s\n", err.text);
        return 2;
    }
    if (!(a.run ? train_prepare(a.run, &err) : answer(&a, &err))) {
        fprintf(stderr, "attune prepare: %s\n", err.text);
        return 1;
    }
    return 0;
}
