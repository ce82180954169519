/* attune tokenize - a tokenizer as a filter over JSON Lines, to compare it with another one. */
#include "cli/cli.h"

#include "base/json.h"
#include "cli/options.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

struct filter {
    struct tokenizer *tok;
    struct tokenizer_scratch *scratch;
    struct token_list tokens;
    struct strbuf decoded, line;
    bool skip_special, spans;
};

static void write_line(struct filter *filter)
{
    struct json_writer writer = {.buf = &filter->line};

    strbuf_clear(&filter->line);
    json_write_begin_object(&writer);
    json_write_key(&writer, "ids");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < filter->tokens.count; i++)
        json_write_integer(&writer, filter->tokens.ids[i]);
    json_write_end_array(&writer);
    if (filter->spans) {
        json_write_key(&writer, "spans");
        json_write_begin_array(&writer);
        for (size_t i = 0; i < filter->tokens.count; i++) {
            json_write_begin_array(&writer);
            json_write_integer(&writer, filter->tokens.spans[i].start);
            json_write_integer(&writer, filter->tokens.spans[i].end);
            json_write_end_array(&writer);
        }
        json_write_end_array(&writer);
    }
    json_put_str(&writer, "decoded", strbuf_view(&filter->decoded));
    json_write_end_object(&writer);
    strbuf_add_char(&filter->line, '\n');
    fwrite(filter->line.at, 1, filter->line.len, stdout);
}

static bool filter_line(struct filter *filter, struct str text, struct err *err)
{
    struct arena arena = {0};
    const struct json *request = json_parse(&arena, text, NULL, err), *input = json_get(request, "text");
    bool ok = false;

    token_list_clear(&filter->tokens);
    strbuf_clear(&filter->decoded);
    if (!request)
        goto out;
    if (!json_has_type(input, JSON_STRING)) {
        err_set(err, ERR_INPUT, "\"text\" is %s, expected a string", json_type_name(input));
        goto out;
    }
    if (!tokenizer_encode(filter->tok, filter->scratch, input->string,
                          json_bool_or(json_get(request, "add_special_tokens"), false), &filter->tokens, err))
        goto out;
    tokenizer_decode(filter->tok, filter->tokens.ids, filter->tokens.count, filter->skip_special, &filter->decoded);
    write_line(filter);
    ok = true;
out:
    arena_deinit(&arena);
    return ok;
}

static bool filter_input(struct filter *filter, struct err *err)
{
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t got;
    bool ok = true;

    while (ok && (got = getline(&line, &cap, stdin)) >= 0) {
        struct str text = str_trim((struct str){line, (size_t)got});

        number++;
        if (text.len > 0 && !filter_line(filter, text, err))
            ok = err_prefix(err, "line %zu", number);
    }
    ok = ok && options_input_ended(err);
    free(line);
    return ok;
}

int cli_tokenize(int argc, char **argv)
{
    const char *path = NULL;
    struct filter filter = {0};
    const struct option list[] = {
        {"tokenizer", OPTION_TEXT, &path, "FILE", "tokenizer.json, or the folder that holds it", NULL},
        {"skip-special", OPTION_FLAG, &filter.skip_special, NULL, "leave special tokens out of the decoded text", NULL},
        {"spans", OPTION_FLAG, &filter.spans, NULL, "add each token's [start, end) in bytes of the text", NULL},
    };
    const struct options options = {
        .usage = "attune tokenize --tokenizer FILE < LINES",
        .about = "Reads JSON Lines {\"text\", \"add_special_tokens\"} and writes {\"ids\", \"decoded\"} for each.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct err err = {0};
    int positional_count = 0, status = 1;

    if (!options_parse(&options, argc, argv, NULL, &positional_count, &err) ||
        (!path && !err_set(&err, ERR_INPUT, "--tokenizer FILE is missing (see --help)"))) {
        fprintf(stderr, "attune tokenize: %s\n", err.text);
        return 2;
    }
    filter.tok = tokenizer_open(path, &err);
    if (filter.tok) {
        filter.scratch = tokenizer_scratch_new(filter.tok);
        status = filter_input(&filter, &err) ? 0 : 1;
    }
    if (status)
        fprintf(stderr, "attune tokenize: %s\n", err.text);
    token_list_deinit(&filter.tokens);
    strbuf_deinit(&filter.decoded);
    strbuf_deinit(&filter.line);
    tokenizer_scratch_free(filter.scratch);
    tokenizer_free(filter.tok);
    return status;
}
