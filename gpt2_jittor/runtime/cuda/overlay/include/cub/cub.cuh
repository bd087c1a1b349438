// CUDA 13's cub, and two iterators that it dropped: Jittor 1.3.11's cub_where_op reads them. GPT-2 has no use for it.
#pragma once
#include_next <cub/cub.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
namespace cub {
template <class T> using CountingInputIterator = thrust::counting_iterator<T>;
template <class Value, class Function, class Iterator>
using TransformInputIterator = thrust::transform_iterator<Function, Iterator, Value>;
}
