// Reads an array once, with all threads, as fast as the memory gives it: see floor.py.
extern "C" float read_once(const float* values, long count) {
    float sum = 0;
    #pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (long i = 0; i < count; i++) sum += values[i];
    return sum;
}
