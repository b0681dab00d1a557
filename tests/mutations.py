"""Known ways to break the companion, each with the test that must notice: `make test-mutations`."""

from pathlib import Path

import pytest
from mutants import ROOT, Mutation, check, check_baseline

MUTATIONS = [
    Mutation(
        "companion/backprop.py",
        "return (gradient - differences).abs().max().item() / size",
        "return (gradient - differences).abs().max().item()",
        "tests/test_backprop.py::test_the_check_measures_the_largest_error_relative_to_the_gradient",
    ),
    Mutation(
        "companion/backprop.py",
        "(deltas[-1] @ weight) * network",
        "(deltas[-1] @ weight.mT) * network",
        "tests/test_backprop.py::test_both_passes_are_autograds[False-networks0-sizes1-tanh]",
    ),
    Mutation(
        "companion/backprop.py",
        "* network.activation.slope(z))",
        "* network.activation.slope(network.activation.function(z)))",
        "tests/test_backprop.py::test_both_passes_are_autograds",
    ),
    Mutation(
        "companion/backprop.py",
        "cache.z[-2::-1], strict=True",
        "cache.z[:0:-1], strict=True",
        "tests/test_backprop.py::test_both_passes_are_autograds[False-networks0-sizes1-tanh]",
    ),
    Mutation(
        "companion/backprop.py",
        "weights=[delta.mT @ a for",
        "weights=[delta.mT @ a / len(a) for",
        "tests/test_backprop.py::test_gradients_are_summed_over_the_examples",
    ),
    Mutation(
        "companion/backprop.py",
        "biases=[delta.sum(-2) for",
        "biases=[delta.mean(-2) for",
        "tests/test_backprop.py::test_gradients_are_summed_over_the_examples",
    ),
    Mutation(
        "companion/backprop.py",
        "difference = function(point + shift) - function(point - shift)",
        "difference = 2 * (function(point + 1e5 * shift) - function(point)) / 1e5",
        "tests/test_backprop.py::test_differences_agree_with_the_backward_pass",
    ),
    Mutation(
        "companion/backprop.py",
        "difference = function(point + shift) - function(point - shift)",
        "difference = 2 * (function(point + shift) - function(point))",
        "tests/test_backprop.py::test_differences_are_central",
    ),
    Mutation(
        "companion/initialization.py",
        "std = math.sqrt(variance(scale, mode, fan_in, fan_out))",
        "std = variance(scale, mode, fan_in, fan_out)",
        "tests/test_initialization.py::test_samples_have_the_variance_stated",
    ),
    Mutation(
        "companion/initialization.py",
        "fan_in, fan_out = tensor.shape[1] * field, tensor.shape[0] * field",
        "fan_in, fan_out = tensor.shape[0] * field, tensor.shape[1] * field",
        "tests/test_initialization.py::test_fans_are_torchs",
    ),
    Mutation(
        "companion/initialization.py",
        "bound = math.sqrt(3) * std",
        "bound = std",
        "tests/test_initialization.py::test_named_schemes_are_torchs",
    ),
    Mutation(
        "companion/initialization.py",
        "(fan_in + fan_out) / 2",
        "fan_in + fan_out",
        "tests/test_initialization.py::test_variance_is_scale_over_the_fan_named",
    ),
    Mutation(
        "companion/activations.py",
        "return torch.cosh(z) ** -2",
        "return 1 - z**2",
        "tests/test_activations.py::test_slope_is_the_derivative_at_the_pre_activation",
    ),
    Mutation(
        "companion/activations.py",
        "(z > 0).to",
        "(z >= 0).to",
        "tests/test_activations.py::test_closed_forms",
    ),
    Mutation(
        "companion/backprop.py",
        "z.append(a[-1] @ weight.mT + network.bias(layer))",
        "z.append(a[-1] @ weight.mT)",
        "tests/test_backprop.py::test_both_passes_are_autograds",
    ),
    Mutation(
        "companion/backprop.py",
        "slope = network.activation.slope(cache.z[layer - 1])",
        "slope = network.activation.slope(cache.z[layer])",
        "tests/test_backprop.py::test_layer_jacobians_are_torchs_and_carry_the_delta[sizes1-tanh]",
    ),
    Mutation(
        "companion/backprop.py",
        "inputs=deltas[0] @ network.weights[0]",
        "inputs=deltas[0] @ network.weights[0] * network.activation.slope(cache.a[0])",
        "tests/test_backprop.py::test_both_passes_are_autograds",
    ),
    Mutation(
        "companion/backprop.py",
        "return -(log_norms @ layer)",
        "return (log_norms @ layer)",
        "tests/test_backprop.py::test_slope_is_the_least_squares_line_per_layer_back",
    ),
    Mutation(
        "companion/backprop.py",
        'std = math.sqrt(non_negative("scale", setting.scale))',
        'std = non_negative("scale", setting.scale)',
        "tests/published/test_backprop.py::test_p1_slopes_are_those_of_the_theory",
    ),
    Mutation(
        "companion/backprop.py",
        "inputs = inputs * math.sqrt(",
        "inputs = inputs * (",
        "tests/test_backprop.py::test_gradient_flow_follows_the_theory_at_every_layer",
    ),
    Mutation(
        "companion/backprop.py",
        "one, scale=scale, mode=mode,",
        'one, scale=scale, mode="fan_in",',
        "tests/test_backprop.py::test_random_weights_have_the_variance_asked_for",
    ),
    Mutation(
        "companion/backprop.py",
        "linear.weight.copy_(weight[index])",
        "linear.weight.copy_(weight[0])",
        "tests/test_backprop.py::test_networks_side_by_side_are_the_networks_alone",
    ),
    Mutation(
        "companion/signal.py",
        ".log10() / 2",
        ".log10()",
        "tests/test_signal.py::test_gradient_flow_step_by_step",
    ),
    Mutation(
        "companion/signal.py",
        "steps.flip(0).cumsum(0).flip(0)",
        "steps.cumsum(0)",
        "tests/test_signal.py::test_gradient_flow_step_by_step",
    ),
    Mutation(
        "companion/signal.py",
        "gaussian_mean(lambda z: phi.slope(z) ** 2",
        "gaussian_mean(phi.slope",
        "tests/test_signal.py::test_smooth_activations_against_another_quadrature",
    ),
    Mutation(
        "companion/signal.py",
        "lambda z: phi.function(z) ** 2",
        "phi.function",
        "tests/test_signal.py::test_relu_and_identity_have_closed_forms",
    ),
    Mutation(
        "companion/signal.py",
        'non_negative("input_mean_square", input_mean_square) + bias_variance',
        'non_negative("input_mean_square", input_mean_square)',
        "tests/test_signal.py::test_gradient_flow_step_by_step",
    ),
    Mutation(
        "companion/products.py",
        "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)",
        "1",
        "tests/test_products.py::test_rotations_are_uniform",
    ),
    Mutation(
        "companion/products.py",
        "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-2)",
        "torch.sign(torch.diagonal(r, dim1=-2, dim2=-1)).unsqueeze(-1)",
        "tests/test_products.py::test_rotations_are_uniform",
    ),
    Mutation(
        "companion/products.py",
        "factors[:, layer] @ vector",
        "factors[:, depth - 1 - layer] @ vector",
        "tests/test_products.py::test_log_growth_applies_factor_0_first",
    ),
    Mutation(
        "companion/products.py",
        "(both[:, :depth] * spectrum) @ both[:, depth:]",
        "(both[:, :depth] * spectrum) @ both[:, :depth].mT",
        "tests/test_products.py::test_singular_directions_are_uniform_and_apart",
    ),
    Mutation(
        "companion/products.py",
        "stretch.log().mean().exp()",
        "stretch.mean()",
        "tests/test_products.py::test_candidates_are_averaged_over_factors_and_seeds",
    ),
    Mutation(
        "companion/products.py",
        "return 0.5 * (torch.special",
        "return 1.0 * (torch.special",
        "tests/test_products.py::test_gaussian_exponents_in_closed_form",
    ),
    Mutation(
        "companion/deep_linear.py",
        "gradients.append(delta @ under.mT)",
        "gradients.append(delta @ under)",
        "tests/test_deep_linear.py::test_gradients_are_autograds[networks0-sizes1]",
    ),
    Mutation(
        "companion/deep_linear.py",
        "delta = weight.mT @ delta",
        "delta = weight @ delta",
        "tests/test_deep_linear.py::test_gradients_are_autograds[networks0-sizes1]",
    ),
    Mutation(
        "companion/deep_linear.py",
        "torch.exp(-2 * singular_value * time)",
        "torch.exp(-singular_value * time)",
        "tests/test_deep_linear.py::test_modes_solve_their_equation",
    ),
    Mutation(
        "companion/deep_linear.py",
        "dtype=torch.float64) / depth",
        "dtype=torch.float64)",
        "tests/test_deep_linear.py::test_steps_are_the_first_below_the_fraction",
    ),
    Mutation(
        "companion/training.py",
        "parameter[~going] = held[name][~going]",
        "pass",
        "tests/test_training.py::test_a_network_that_blows_up_stops_alone",
    ),
    Mutation(
        "companion/training.py",
        "rows.append(row if not rows else _hold(row, rows[-1], stopped, step))",
        "rows.append(row)",
        "tests/test_training.py::test_a_network_that_blows_up_stops_alone",
    ),
    Mutation(
        "companion/training.py",
        "            if recording or stopping.any():\n",
        "            if recording:\n",
        "tests/test_training.py::test_a_network_that_blows_up_stops_alone",
    ),
    Mutation(
        "companion/training.py",
        "[seed + i for i in range(len(models))]",
        "[seed for i in range(len(models))]",
        "tests/test_training.py::test_networks_train_as_each_would_alone",
    ),
    Mutation(
        "companion/training.py",
        "for handle in handles:",
        "for handle in handles[:0]:",
        "tests/test_training.py::test_hooks_are_removed_when_the_loss_raises",
    ),
    Mutation(
        "companion/training.py",
        "_norms(parameters[name] - start[name] for name in parameters)",
        "_norms(start[name] for name in parameters)",
        "tests/test_training.py::test_networks_train_as_each_would_alone",
    ),
    Mutation(
        "companion/training.py",
        "for step in bar(range(steps + 1)",
        "for step in bar(range(steps)",
        "tests/test_training.py::test_networks_train_as_each_would_alone",
    ),
    Mutation(
        "companion/training.py",
        " or repr(model) != repr(models[0])",
        "",
        "tests/test_training.py::test_models_of_different_architectures_are_refused",
    ),
    Mutation(
        "companion/plots.py",
        "[0.5, 0.1, 0.9]",
        "[0.5, 0.25, 0.75]",
        "tests/test_plots.py::test_line_is_the_median_and_band_the_percentiles",
    ),
    Mutation(
        "companion/plots.py",
        "layer = range(1, rows.shape[-1] + 1)",
        "layer = range(rows.shape[-1])",
        "tests/test_plots.py::test_gradient_flow_draws_layers_runs_and_theory",
    ),
    Mutation(
        "companion/plots.py",
        '"#9977FF"',
        '"#56B4E9"',
        "tests/test_plots.py::test_lines_stand_out_on_light_and_dark_pages",
    ),
    Mutation(
        "companion/data.py",
        "StandardScaler().fit(train)",
        "StandardScaler().fit(images)",
        "tests/test_data.py::test_standardized_over_the_training_part",
    ),
    Mutation(
        "companion/data.py",
        ", stratify=labels",
        "",
        "tests/test_data.py::test_every_class_gets_its_share",
    ),
    Mutation(
        "companion/explore.py",
        "zip(grids, values, strict=True)",
        "zip(reversed(grids), values, strict=True)",
        "tests/test_explore.py::"
        "test_each_frame_is_what_draw_gives_for_its_values_the_last_slider_fastest",
    ),
    Mutation(
        "companion/explore.py",
        "for f in frames[1:]",
        "for f in frames",
        "tests/test_explore.py::"
        "test_each_frame_is_what_draw_gives_for_its_values_the_last_slider_fastest",
    ),
    Mutation(
        "companion/explore.py",
        "if size > LIMIT:",
        "if size > 1.5 * LIMIT:",
        "tests/test_explore.py::test_a_grid_is_stored_up_to_the_limit_and_refused_above",
    ),
    Mutation(
        "companion/explore.py",
        "image.value, reading.value = frame.image, escape(frame.reading)",
        "reading.value = escape(frame.reading)",
        "tests/test_explore.py::test_moving_a_widget_draws_anew",
    ),
    Mutation(
        "companion/activations.py",
        "return torch.sigmoid(z) * torch.sigmoid(-z)",
        "return z * (1 - z)",
        "tests/test_activations.py::test_slope_is_the_derivative_at_the_pre_activation",
    ),
    Mutation(
        "companion/activations.py",
        "return torch.sigmoid(z) * torch.sigmoid(-z)",
        "return torch.sigmoid(z) * (1 - torch.sigmoid(z))",
        "tests/test_activations.py::test_slopes_have_all_their_digits",
    ),
    Mutation(
        "companion/activations.py",
        "SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805",
        "SELU_ALPHA, SELU_SCALE = 1.6733, 1.0507",
        "tests/test_activations.py::test_slope_is_the_derivative_at_the_pre_activation",
    ),
    Mutation(
        "companion/activations.py",
        "_pre_activations(z)) == 0).all(-2)",
        "_pre_activations(z)) == 0).any(-2)",
        "tests/test_activations.py::test_units_are_counted_over_the_examples",
    ),
    Mutation(
        "companion/activations.py",
        "z.movedim(1, -1)).flatten(0, -2)",
        "z.flatten(1)).flatten(0, -2)",
        "tests/test_activations.py::test_a_channel_is_one_unit",
    ),
    Mutation(
        "companion/activations.py",
        "buffers = {name: buffer.clone() for",
        "buffers = {name: buffer for",
        "tests/test_activations.py::test_looking_changes_nothing",
    ),
    Mutation(
        "companion/activations.py",
        '(0.5 ** positive_integer("width", width))',
        '(0.5 / positive_integer("width", width))',
        "tests/published/test_activations.py::test_p5_networks_are_born_dead_as_often_as_the_formula_says",
    ),
    Mutation(
        "companion/_gaussian.py",
        "bends = {0.0, *kinks, *steps, *(-step for step in steps)}",
        "bends = {*kinks}",
        "tests/test_signal.py::test_a_layer_too_thin_for_fixed_nodes_is_found",
    ),
    Mutation(
        "companion/_gaussian.py",
        "rays = [angle % (2 * math.pi) for angle in (0, math.pi, between, between + math.pi)]",
        "rays = [0.0, math.pi]",
        "tests/test_signal.py::test_correlations_of_relu_have_closed_forms",
    ),
    Mutation(
        "companion/signal.py",
        "* mean_square + non_negative(",
        "* mean_square + 0 * non_negative(",
        "tests/test_signal.py::test_relu_and_identity_have_closed_forms",
    ),
    Mutation(
        "companion/signal.py",
        "    if repulsion(0.0) > -1e-12:",
        "    if True:\n        return 1.0\n    if repulsion(0.0) > -1e-12:",
        "tests/test_signal.py::test_p10_depth_scales_of_tanh",
    ),
    Mutation(
        "companion/signal.py",
        "scale(chi(q, activation, weight_variance, correlation=c)),",
        "scale(chi(q, activation, weight_variance)),",
        "tests/test_signal.py::test_p10_depth_scales_of_tanh",
    ),
    Mutation(
        "companion/signal.py",
        "lambda a, b: phi.slope(a) * phi.slope(b)",
        "lambda a, b: phi.function(a) * phi.function(b)",
        "tests/test_signal.py::test_correlations_of_relu_have_closed_forms",
    ),
    Mutation(
        "companion/signal.py",
        "found.mean_square - found.mean**2)",
        "found.mean_square)",
        "tests/test_signal.py::test_the_variance_is_about_the_mean",
    ),
    Mutation(
        "companion/signal.py",
        "a.var((1, 2), correction=0)",
        "a.var((1, 2))",
        "tests/test_signal.py::test_measured_moments_are_those_of_each_network",
    ),
    Mutation(
        "companion/signal.py",
        "found[1] - 2 * first * found[0]",
        "found[1]",
        "tests/test_signal.py::test_the_moment_jacobian_is_the_derivative",
    ),
    Mutation(
        "companion/signal.py",
        "for critical, _, slope in found if slope < 1]",
        "for critical, _, slope in found]",
        "tests/test_signal.py::test_where_nothing_is_critical_it_says_what_was_found",
    ),
    Mutation(
        "companion/shattering.py",
        "factors.append(phi.slope(z[:, :compared]) / scale)",
        "factors.append(phi.slope(z[:, :compared]))",
        "tests/test_shattering.py::test_gradients_are_autograds",
    ),
    Mutation(
        "companion/shattering.py",
        "factors.append(phi.slope(z[:, :compared]) / scale)",
        "factors.append(phi.slope(x[:, :compared]) / scale)",
        "tests/test_shattering.py::test_gradients_are_autograds",
    ),
    Mutation(
        "companion/shattering.py",
        "q, c, over = 1.0, -away / (1 - away), (length - covariance) * (1 - away)",
        "q, c, over = 1.0, covariance / length, length",
        "tests/published/test_activations.py::test_p7_as_published",
    ),
    Mutation(
        "companion/shattering.py",
        "(unit.sum(-2).square().sum(-1) - count) / (count * (count - 1))",
        "unit.sum(-2).square().sum(-1) / count**2",
        "tests/test_shattering.py::test_the_cosine_is_the_mean_over_pairs",
    ),
]


def test_the_tests_pass_unbroken(tmp_path: Path) -> None:
    check_baseline([mutation.test for mutation in MUTATIONS], ROOT, tmp_path)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}: {m.old} -> {m.new}")
def test_mutation_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    check(mutation, ROOT, tmp_path)
