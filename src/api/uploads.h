/* api/uploads.h - what uploads.c and upload_completion.c share. */
#pragma once

#include "api/api_int.h"
#include "store/uploads.h"

/* The upload that the path names, still open for more; answers when it is not. */
bool find_pending_upload(struct call *call, struct store_upload *upload);
/* file NULL: not completed. */
void answer_upload(struct call *call, const struct store_upload *upload, const struct store_file *file);
