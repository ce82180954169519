/* data/preview.h - lines of a training file as what they are trained as.
 *
 * Each line becomes one JSON object, in one of two forms:
 *
 *   PREVIEW_LABELS  {"line", "ids", "labels"}: labels are -100 where nothing trains
 *   PREVIEW_TOKENS  {"line", "kind", "text", "token_count", "trained_count", "tokens": [{"id", "text", "trained"}]}
 *
 * A preference has these members under "chosen" and "rejected". A line that cannot be used has "error" instead. */
#pragma once

#include "data/encode.h"

enum preview_form { PREVIEW_LABELS, PREVIEW_TOKENS };

struct preview_options {
    const struct encoder *encoder;
    enum preview_form form;
    uint64_t first, count; /* lines, by their number in the file from 1 */
    uint64_t tokens_max;   /* of all lines together; beyond it `tokens` and `text` end early; 0: no bound */
    /* Each line that is not blank, in order. The view is valid during the call. */
    void (*on_line)(void *context, struct str json);
    void *context;
};

/* False when the file cannot be read. A file that ends before `first` has no lines there. */
bool preview_file(const char *path, const struct preview_options *options, struct err *err);
