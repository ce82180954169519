/* api/form.h - a body of multipart/form-data with one file in it, on its way to a blob.
 *
 * This is what files and parts of uploads have in common. The body streams through the parser of http/multipart.h; the
 * owner's sink says which part is the file, begins its intake and feeds it. What is wrong with the body is answered
 * once, and the rest of it is passed over. The owner has the form as its first member, in the call's arena. */
#pragma once

#include "api/intake.h"
#include "http/multipart.h"

struct form {
    struct call *call;
    const char *param;                   /* that answers about the body name; NULL: none */
    void (*on_whole)(struct form *form); /* its last byte is here and every part was fine */
    struct intake *intake;               /* of the file, once the sink has begun it; freed with the exchange */
    struct multipart *reader;
    bool is_refused; /* answered already */
};

/* Takes the call's body, up to bytes_max, or answers why not. The context of the sink's functions is the form. */
void form_take(struct form *form, const struct multipart_sink *sink, uint64_t bytes_max);
/* Answers, unless it was refused before. ERR_INPUT is 400 here: the body is wrong, not a field of a document. */
void form_refuse(struct form *form, const struct err *err, const char *param);
