/* cli/training_check.h - the check of training files (data/jsonl.h) as the API borrows it: api and data know nothing of
 * each other. */
#pragma once

#include "api/api.h"

extern const struct api_checker training_check;
