"""What the rows of Jittor's profiler are called in the table of an update's operators."""

import pytest

from benchmarks.profiling import description


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "code«IN_SIZE:3«in0_dim:2«HEADER:static void f(const float* in) {}\nnamespace jittor {\n}«CODE:"
            'const double eps = data["eps"];\nlayer_norm_forward(in0_p, in1_p, in0_shape0, eps);',
            "layer_norm_forward",
        ),
        (
            "code«IN_SIZE:2«HEADER:«CODE:\n    AttentionShape s = {in0_shape0, (long)heads, (float)(1 / (1 - p))};\n"
            "const long c = in0_shape2 / 3;attention_forward(s, in0_p, 3 * c);",
            "attention_forward",
        ),
        ("code«IN_SIZE:9«HEADER:«CODE:adamw({{in0_p, in1_p}}, in8_p, step_size);", "adamw"),
        ("cublas_matmul«T:float32«Trans_a:N", "cublas_matmul"),
        ("«opkey0:broadcast_to«Tx:float32«opkey1:binary«Tx:float32«OP:multiply«opkey2:reduce«OP:add", None),
    ],
)
def test_an_operator_is_called_by_what_it_computes(key, expected):
    assert description(key) == (expected or "broadcast_to multiply add")
