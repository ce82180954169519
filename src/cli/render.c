/* attune render: a chat template from the command line. */
#include "cli/cli.h"
#include "cli/options.h"
#include "os/clock.h"
#include "os/file.h"
#include "text/template.h"

#include <stdio.h>
#include <stdlib.h>

static void write_result(struct json_writer *w, struct str text, const struct template_spans *spans)
{
    json_write_begin_object(w);
    json_put_str(w, "text", text);
    json_write_key(w, "generation_spans");
    json_write_begin_array(w);
    for (size_t i = 0; i < spans->count; i++) {
        json_write_begin_array(w);
        json_write_integer(w, (int64_t)spans->at[i].start_codepoint);
        json_write_integer(w, (int64_t)spans->at[i].end_codepoint);
        json_write_end_array(w);
    }
    json_write_end_array(w);
    json_write_end_object(w);
}

/* One line of standard input to one line of standard output; a failure is an answer too. */
static void render_line(const struct template *template, const struct template_options *options, struct str line,
                        struct arena *arena)
{
    struct strbuf text = {0}, answer = {0};
    struct json_writer w = {.buf = &answer};
    struct template_spans spans = {0};
    struct err err = {0};
    struct json *variables = json_parse(arena, line, NULL, &err);

    if (variables && template_render(template, variables, options, &text, &spans, arena, &err)) {
        write_result(&w, strbuf_view(&text), &spans);
    } else {
        json_write_begin_object(&w);
        json_put_text(&w, "error", err.text);
        json_write_end_object(&w);
    }
    puts(answer.at);
    strbuf_deinit(&answer);
    strbuf_deinit(&text);
}

static bool render_lines(const struct template *template, const struct template_options *options, struct err *err)
{
    struct arena arena = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    bool ok;

    while ((len = getline(&line, &cap, stdin)) >= 0) {
        struct str text = str_trim((struct str){line, (size_t)len});
        if (text.len)
            render_line(template, options, text, &arena);
        arena_reset(&arena);
    }
    ok = options_input_ended(err);
    free(line);
    arena_deinit(&arena);
    return ok;
}

int cli_render(int argc, char **argv)
{
    const char *path = NULL, *now = NULL;
    const struct option list[] = {
        {"template", OPTION_TEXT, &path, "FILE", "the chat template (Jinja)", NULL},
        {"now", OPTION_TEXT, &now, "ISO-TIME", "what strftime_now shows; default: the clock, in UTC", NULL},
    };
    const struct options options = {
        .usage = "attune render --template FILE [--now ISO-TIME]",
        .about = "Renders a chat template. Each line of standard input is a JSON object of the template's variables "
                 "and gives one line: {\"text\", \"generation_spans\"} with spans in code points, or {\"error\"}.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct template_options template_options = {.now = clock_unix()};
    struct template *template = NULL;
    struct arena arena = {0};
    struct err err = {0};
    struct str source;
    int count, status = 2;

    if (!options_parse(&options, argc, argv, NULL, &count, &err))
        goto out;
    if (!path || (now && !template_time_parse(str_of(now), &template_options.now))) {
        err_set(&err, ERR_INPUT,
                path ? "--now takes a time such as 2024-07-26T14:30:05" : "--template FILE is missing");
        goto out;
    }
    status = 1;
    if (!file_read(&arena, path, TEMPLATE_SOURCE_BYTES_MAX, &source, &err) ||
        !(template = template_parse(&arena, source, &err)))
        goto out;
    if (render_lines(template, &template_options, &err))
        status = 0;
out:
    if (status)
        fprintf(stderr, "attune render: %s\n", err.text);
    arena_deinit(&arena);
    return status;
}
