// Embedding: rows of a table by id.
#pragma once
#include "core/view.h"

namespace mt {

/// y[...,:] = table[ids[...],:]. ids int32, contiguous; table [V,D] float32, bfloat16 or float16; y [...,D].
/// An id outside the table fails in the queue, with the id and the number of rows.
void check_embedding_forward(const View& ids, const View& table, ActOut y);
/// dtable[v,:] = Σ dy over the i whose ids[i] is v, in order; [V,D] float32.
void check_embedding_backward(const Act& dy, const View& ids, Out dtable);

namespace cpu {
void embedding_forward(const View& ids, const View& table, Out y);
void embedding_backward(const View& dy, const View& ids, Out dtable);
}  // namespace cpu
namespace cuda {
void embedding_forward(const View& ids, const View& table, ActOut y);
void embedding_backward(const Act& dy, const View& ids, Out dtable);
}  // namespace cuda
}  // namespace mt
