/* attune data: what a training file holds, and what a model will be trained on, token by token. */
#include "cli/cli.h"
#include "cli/data_rows.h"
#include "cli/encoder.h"
#include "cli/options.h"
#include "data/jsonl.h"
#include "data/preview.h"
#include "os/file.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 20 };

struct data_arguments {
    const char *model, *over_length;
    int64_t line;
    bool has_line, is_json;
    struct data_rows_options rows;
};

typedef bool take_bytes(void *context, struct str bytes, struct err *err);

static bool read_blocks(const char *path, take_bytes *take, void *context, struct err *err)
{
    int fd = file_open_read(path, err);
    char *block = mem_alloc(BLOCK_BYTES);
    uint64_t offset = 0;
    size_t got = BLOCK_BYTES;
    bool ok = fd >= 0;

    for (; ok && got == BLOCK_BYTES; offset += got)
        ok = fd_pread(fd, block, BLOCK_BYTES, offset, &got, path, err) && take(context, (struct str){block, got}, err);
    fd_close(&fd);
    free(block);
    return ok;
}

static bool check_bytes(void *context, struct str bytes, struct err *err)
{
    jsonl_checker_add(context, bytes.at, bytes.len);
    return true;
}

/* As compilers write it; what is wrong with the whole file has no line. */
static void print_error(const char *file, const struct jsonl_error *error)
{
    if (error->line)
        printf("%s:%" PRIu64 ": %s\n", file, error->line, error->text);
    else
        printf("%s: %s\n", file, error->text);
}

static bool check(void *context, const char *const *words, struct err *err)
{
    const char *file = words[0];
    struct jsonl_checker *checker = jsonl_checker_new();
    const struct jsonl_report *report;
    bool ok = read_blocks(file, check_bytes, checker, err);

    if (!ok)
        goto out;
    report = jsonl_checker_end(checker);
    for (size_t i = 0; i < jsonl_report_kept(report); i++)
        print_error(file, &report->errors[i]);
    printf("%s: %" PRIu64 " examples%s%s, %" PRIu64 " lines, %" PRIu64 " wrong\n", file, report->example_count,
           report->has_kind ? " of kind " : "", report->has_kind ? example_kind_name(report->kind) : "",
           report->line_count, report->error_count);
    ok = report->error_count == 0 || err_set(err, ERR_INPUT, "%s cannot be trained on as it is", file);
out:
    jsonl_checker_free(checker);
    return ok;
}

/* The one line that is wanted. */
struct search {
    struct jsonl_cutter cutter;
    uint64_t number;
    struct strbuf text;
    bool is_found;
};

static bool take_line(void *context, const struct jsonl_line *line)
{
    struct search *search = context;

    if (line->number != search->number)
        return true;
    search->is_found = !line->is_too_long;
    strbuf_add_str(&search->text, line->text);
    return false;
}

static bool search_bytes(void *context, struct str bytes, struct err *err)
{
    struct search *search = context;

    if (!search->is_found && jsonl_cut(&search->cutter, bytes, take_line, search) && bytes.len < BLOCK_BYTES)
        jsonl_cut_end(&search->cutter, take_line, search);
    return true;
}

/* Control characters and the like as escapes, so that a token is one word on one line. */
static void print_quoted(struct str text)
{
    struct strbuf quoted = {0};
    struct json_writer w = {.buf = &quoted};

    json_write_string(&w, text);
    printf("%s", quoted.at);
    strbuf_deinit(&quoted);
}

static void print_token(const struct tokenizer *tokenizer, int32_t id)
{
    struct strbuf text = {0};

    tokenizer_decode(tokenizer, &id, 1, false, &text);
    if (text.len == 0 || str_find(strbuf_view(&text), STR("\xef\xbf\xbd"), 0) >= 0)
        print_quoted(tokenizer_token_text(tokenizer, id)); /* part of a character: as the vocabulary has it */
    else
        print_quoted(strbuf_view(&text));
    strbuf_deinit(&text);
}

static void print_tokens(const struct encoder *encoder, const struct encoded *e)
{
    bool has_colour = isatty(1);

    printf("position      id  trains  token\n");
    for (uint32_t i = 0; i < e->count; i++) {
        printf("%s%8u  %6d  %s  ", has_colour && e->trains[i] ? "\033[1;32m" : "", i, e->ids[i],
               e->trains[i] ? "train " : "      ");
        print_token(encoder_tokenizer(encoder), e->ids[i]);
        printf("%s\n", has_colour && e->trains[i] ? "\033[0m" : "");
    }
    printf("%u tokens, %u train\n", e->count, e->trained_count);
}

static bool show_pair(const struct encoder *encoder, struct encoder_scratch *scratch, const struct example *example,
                      struct err *err)
{
    struct encoded pair[2];

    if (!encode_pair(encoder, scratch, example, pair, err))
        return false;
    printf("chosen\n");
    print_tokens(encoder, &pair[0]);
    printf("\nrejected\n");
    print_tokens(encoder, &pair[1]);
    return true;
}

static bool show_line(const struct encoder *encoder, struct arena *arena, struct str text, struct err *err)
{
    struct encoder_scratch *scratch = encoder_scratch_new(encoder);
    struct example example;
    struct encoded encoded;
    bool ok = example_parse(arena, text, &example, err);

    if (ok && example.kind == EXAMPLE_PREFERENCE) {
        ok = show_pair(encoder, scratch, &example, err);
    } else if (ok) {
        ok = encode_example(encoder, scratch, &example, &encoded, err);
        if (ok)
            print_tokens(encoder, &encoded);
    }
    encoder_scratch_free(scratch);
    return ok;
}

static bool show_one(const struct data_arguments *a, const char *file, const struct encoder *encoder, struct err *err)
{
    struct search search = {.number = (uint64_t)a->line};
    struct arena arena = {0};
    bool ok = read_blocks(file, search_bytes, &search, err);

    if (ok && !search.is_found)
        ok = err_set(err, ERR_NOT_FOUND, "%s has no line %" PRId64 ", or it is longer than 8 MiB", file, a->line);
    else if (ok)
        ok = show_line(encoder, &arena, strbuf_view(&search.text), err) ||
             err_prefix(err, "%s:%" PRId64, file, a->line);
    strbuf_deinit(&search.text);
    jsonl_cutter_deinit(&search.cutter);
    arena_deinit(&arena);
    return ok;
}

static void print_line(void *context, struct str json)
{
    puts(json.at);
}

static bool show_all(const char *file, const struct encoder *encoder, struct err *err)
{
    const struct preview_options options = {.encoder = encoder, .first = 1, .count = UINT64_MAX, .on_line = print_line};

    return preview_file(file, &options, err);
}

static bool show(void *context, const char *const *words, struct err *err)
{
    const struct data_arguments *a = context;
    struct arena arena = {0};
    struct encoder *encoder = encoder_of_model(&arena, a->model, err);
    bool ok = encoder && (a->is_json ? show_all(words[0], encoder, err) : show_one(a, words[0], encoder, err));

    encoder_free(encoder);
    arena_deinit(&arena);
    return ok;
}

static bool rows(void *context, const char *const *words, struct err *err)
{
    const struct data_arguments *a = context;
    struct arena arena = {0};
    struct encoder *encoder = encoder_of_model(&arena, a->model, err);
    bool ok = encoder && data_rows_print(words[0], encoder, &a->rows, err);

    encoder_free(encoder);
    arena_deinit(&arena);
    return ok;
}

static const struct action actions[] = {
    {"check", "FILE", "reads a training file as the server does and prints what is wrong with it, line by line", check},
    {"show", "FILE --model DIR", "prints the tokens of a line and which of them train", show},
    {"rows", "FILE --model DIR", "prints the rows that training is fed with, as JSON Lines: row, the lines in it, "
                                 "their lengths, ids and labels (-100: carries no loss); then per epoch the order in "
                                 "which they come", rows},
};

static bool check_options(const struct action *action, void *context, struct err *err)
{
    struct data_arguments *a = context;

    if (!over_length_find(str_of(a->over_length), &a->rows.over_length))
        return err_set(err, ERR_INPUT, "--over-length is '%s': it must be drop, error or truncate", a->over_length);
    if (a->rows.context_length < 1 || a->rows.context_length > INT32_MAX)
        return err_set(err, ERR_INPUT, "--context-length must be from 1 to 2147483647");
    if (action->run != check && !a->model)
        return err_set(err, ERR_INPUT, "--model is missing: tokens depend on it");
    if (action->run == check && (a->model || a->has_line || a->is_json))
        return err_set(err, ERR_INPUT,
                       "check reads the whole file and needs no model; --model and --line belong to show");
    return true;
}

int cli_data(int argc, char **argv)
{
    struct data_arguments a = {
        .line = 1, .over_length = "drop", .rows = {.context_length = 8192, .is_packed = true}};
    const struct option list[] = {
        {"model", OPTION_TEXT, &a.model, "DIR", "show, rows: whose tokenizer and chat template are used",
         NULL},
        {"line", OPTION_INT, &a.line, "N", "show: which line (1)", &a.has_line},
        {"json", OPTION_FLAG, &a.is_json, NULL, "show: every line as JSON: line, ids, labels (or error)", NULL},
        {NULL, OPTION_FLAG, NULL, NULL, "rows:", NULL},
        {"context-length", OPTION_INT, &a.rows.context_length, "N", "most tokens of a row (8192)", NULL},
        {"over-length", OPTION_TEXT, &a.over_length, "WHAT", "longer lines: drop, error or truncate (drop)", NULL},
        {"packing", OPTION_FLAG, &a.rows.is_packed, NULL, "several examples a row", NULL},
        {"epochs", OPTION_INT, &a.rows.epochs, "N", "add the order of the rows in this many epochs (0)", NULL},
        {"seed", OPTION_INT, &a.rows.seed, "N", "seed of that order (0)", NULL},
    };
    const struct options options = {
        .usage = "attune data ACTION FILE [options]",
        .about = "What a training file holds, and what a model would be trained on, token by token.",
        .list = list,
        .count = sizeof list / sizeof *list,
        .actions = actions,
        .action_count = sizeof actions / sizeof *actions,
        .check = check_options,
    };
    return options_act(&options, argc, argv, &a);
}
