"""The theorems of Shu, Wang and Cai (ICLR 2020), on the linear cells that they are about.

A cell has n nodes, every weight W_i is d x d, the output is the concatenation of all nodes. In the
widest cell every node reads the input, y_i = W_i x; in the narrowest one it reads the node before,
y_i = W_i ... W_1 x. The objective is f(y) = ||y - t||^2 / 2 for a target with noise, so the noise
of df/dy does not depend on y. The noise takes each of a few values with equal probability: all
moments below are exact, and gradients and Hessians are those of autograd, in float64.
"""

import math

import pytest
import torch

NODES, SIZE = 4, 8


def wide(weights, x):
    return torch.cat([w @ x for w in weights])


def narrow(weights, x):
    nodes = []
    for w in weights:
        x = w @ x
        nodes.append(x)
    return torch.cat(nodes)


def objective(cell, weights, x, target):
    return (cell(weights, x) - target).square().sum() / 2


def variances(cell, weights, x, targets):
    """Compute, for each block, E ||g - E g||^2 of its gradient over all targets."""
    leaves = [w.clone().requires_grad_() for w in weights]
    gradients = [
        torch.autograd.grad(objective(cell, leaves, x, target), leaves) for target in targets
    ]
    blocks = [torch.stack(block) for block in zip(*gradients, strict=True)]
    return [float((b - b.mean(0)).square().sum((1, 2)).mean()) for b in blocks]


def smoothness(cell, weights, x, target, block):
    """Compute the Lipschitz constant of the gradient in one block, all others fixed.

    The objective is quadratic in every single block, so its Hessian is the same everywhere.
    """

    def of_block(w):
        return objective(cell, [*weights[:block], w, *weights[block + 1 :]], x, target)

    hessian = torch.autograd.functional.hessian(of_block, weights[block])
    size = weights[block].numel()
    return float(torch.linalg.eigvalsh(hessian.reshape(size, size))[-1])


def independent_noise(scales, size):
    """Return equally likely noises with mean 0, all of whose components are uncorrelated.

    Args:
        scales: one for each node.
        size: of a node.

    Returns:
        `noises x (nodes * size)`; node k has E ||noise_k||^2 = scale^2 / nodes.
    """
    directions = torch.diag(torch.tensor(scales, dtype=torch.float64).repeat_interleave(size))
    return torch.cat([directions, -directions])


def gaussian(generator, nodes, size, largest):
    """Draw matrices and scale them to a largest singular value."""
    drawn = torch.randn(nodes, size, size, generator=generator, dtype=torch.float64)
    return [w * largest / torch.linalg.matrix_norm(w, 2) for w in drawn]


def orthogonal(generator, nodes, size, scale):
    drawn = torch.randn(nodes, size, size, generator=generator, dtype=torch.float64)
    return [scale * torch.linalg.qr(w).Q for w in drawn]


def vector(generator, size):
    return torch.randn(size, generator=generator, dtype=torch.float64)


def largest_singular_values(weights):
    return [float(torch.linalg.matrix_norm(w, 2)) for w in weights]


def bound_of_theorem_2(sigmas_squared, lambdas, i):
    """Compute n sum_{k >= i} ((sigma_k / lambda_i) prod_{j <= k} lambda_j)^2; i counts from 0."""
    n = len(lambdas)
    return n * sum(
        sigmas_squared[k] * (math.prod(lambdas[: k + 1]) / lambdas[i]) ** 2 for k in range(i, n)
    )


class TestGradientVariance:
    """Theorem 2."""

    @pytest.mark.parametrize("largest", [0.5, 1.0, 1.5, 3.0])
    @pytest.mark.parametrize("nodes", [1, 2, 4, 5])
    @pytest.mark.parametrize("kind", ["independent", "correlated"])
    def test_the_bound_holds_for_any_weights(self, nodes, largest, kind):
        size = 4
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            weights = gaussian(generator, nodes, size, largest)
            weights[0] = 2 * weights[0]  # the largest singular values differ
            x, mean = vector(generator, size), vector(generator, nodes * size)
            if kind == "independent":
                noise = independent_noise(range(1, nodes + 1), size)
            else:
                noise = torch.randn(
                    12, nodes * size, generator=generator, dtype=torch.float64
                ) @ torch.randn(
                    nodes * size, nodes * size, generator=generator, dtype=torch.float64
                )
            sigmas = variances(wide, weights, x, mean + noise)
            lambdas = largest_singular_values(weights)
            for i, variance in enumerate(variances(narrow, weights, x, mean + noise)):
                assert variance <= bound_of_theorem_2(sigmas, lambdas, i) * (1 + 1e-9)

    def test_the_bound_is_reached_up_to_rounding(self):
        """The test above can fail: with the noises of all nodes aligned nothing is to spare."""
        generator = torch.Generator().manual_seed(0)
        weights = [torch.eye(SIZE, dtype=torch.float64)] * NODES
        x, one = vector(generator, SIZE), vector(generator, SIZE)
        noise = torch.stack([one.repeat(NODES), -one.repeat(NODES)])
        sigmas = variances(wide, weights, x, noise)
        bound = bound_of_theorem_2(sigmas, [1.0] * NODES, 0)
        assert variances(narrow, weights, x, noise)[0] == pytest.approx(bound, rel=1e-9)

    @pytest.mark.parametrize("scale", [0.5, 1.0, 1.2, 2.0])
    def test_it_is_known_exactly_for_multiples_of_orthogonal_matrices(self, scale):
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            weights = orthogonal(generator, NODES, SIZE, scale)
            x, mean = vector(generator, SIZE), vector(generator, NODES * SIZE)
            targets = mean + independent_noise((1.0, 3.0, 0.5, 2.0), SIZE)
            wides = variances(wide, weights, x, targets)
            narrows = variances(narrow, weights, x, targets)
            for i in range(NODES):
                exact = sum(scale ** (2 * k) * wides[k] for k in range(i, NODES))
                assert narrows[i] == pytest.approx(exact, rel=1e-9)
                if scale >= 1:
                    more = narrows[i] > wides[i] * (1 + 1e-9)
                    assert more or (i == NODES - 1 and scale == 1)

    def test_it_is_no_law_that_the_narrow_cell_has_more(self):
        """The theorem bounds the worst case: Gaussian weights contract on the average.

        All largest singular values are 1.5, and yet the last blocks of the narrow cell have less.
        """
        generator = torch.Generator().manual_seed(0)
        weights = gaussian(generator, NODES, SIZE, 1.5)
        x = vector(generator, SIZE)
        targets = independent_noise((1.0,) * NODES, SIZE)
        wides, narrows = (variances(cell, weights, x, targets) for cell in (wide, narrow))
        assert wides == pytest.approx([wides[0]] * NODES)
        assert narrows[0] > wides[0]
        assert narrows[-1] < wides[-1] / 2
        lambdas = largest_singular_values(weights)
        assert lambdas == pytest.approx([1.5] * NODES)
        assert all(narrows[i] < bound_of_theorem_2(wides, lambdas, i) for i in range(NODES))


class TestSmoothness:
    """Theorem 1: constants of the blocks, exactly.

    In the widest cell L_i = ||x||^2. In the narrowest one, with A_k = W_k ... W_{i+1},

        L_i = lambda_max(sum_{k >= i} A_k^T A_k) ||W_{i-1} ... W_1 x||^2
           <= ||x||^2 prod_{j < i} lambda_j^2 sum_{k >= i} prod_{i < j <= k} lambda_j^2.

    The paper's bound is handed down as (prod_{j < i} lambda_j) L_i; see the last test.
    """

    @staticmethod
    def constants(cell, weights, x):
        target = torch.zeros(len(weights) * len(x), dtype=torch.float64)
        return [smoothness(cell, weights, x, target, i) for i in range(len(weights))]

    @staticmethod
    def bound(lambdas, i):
        before = math.prod(value**2 for value in lambdas[:i])
        after = (
            math.prod(value**2 for value in lambdas[i + 1 : k + 1]) for k in range(i, len(lambdas))
        )
        return before * sum(after)

    @pytest.mark.parametrize("largest", [0.5, 1.0, 1.5])
    def test_the_constants_are_what_the_formula_says(self, largest):
        size = 5
        generator = torch.Generator().manual_seed(1)
        weights, x = gaussian(generator, NODES, size, largest), vector(generator, size)
        square = float(x.square().sum())
        assert self.constants(wide, weights, x) == pytest.approx([square] * NODES, rel=1e-9)
        lambdas = largest_singular_values(weights)
        for i, constant in enumerate(self.constants(narrow, weights, x)):
            seen, product = x, torch.eye(size, dtype=torch.float64)
            for w in weights[:i]:
                seen = w @ seen
            total = product.clone()
            for w in weights[i + 1 :]:
                product = w @ product
                total += product.T @ product
            exact = float(torch.linalg.eigvalsh(total)[-1] * seen.square().sum())
            assert constant == pytest.approx(exact, rel=1e-9)
            assert constant <= square * self.bound(lambdas, i) * (1 + 1e-9)

    @pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
    def test_the_bound_is_reached_by_multiples_of_orthogonal_matrices(self, scale):
        generator = torch.Generator().manual_seed(2)
        weights, x = orthogonal(generator, NODES, 5, scale), vector(generator, 5)
        square = float(x.square().sum())
        for i, constant in enumerate(self.constants(narrow, weights, x)):
            assert constant == pytest.approx(square * self.bound([scale] * NODES, i), rel=1e-9)

    def test_the_narrow_cell_is_less_smooth_in_every_block_but_the_last(self):
        """So the conclusion of the paper holds where singular values are all 1 or more."""
        generator = torch.Generator().manual_seed(3)
        x = vector(generator, 5)
        for scale in (1.0, 1.5):
            weights = orthogonal(generator, NODES, 5, scale)
            wides, narrows = (self.constants(cell, weights, x) for cell in (wide, narrow))
            pairs = list(zip(wides, narrows, strict=True))
            assert all(slim > broad * 1.5 for broad, slim in pairs[:-1])
            assert narrows[-1] >= wides[-1] * (1 - 1e-9)

    def test_the_bound_as_it_is_handed_down_does_not_hold_for_this_objective(self):
        """Without the squares, and without the later nodes, it is too small: no test uses it."""
        generator = torch.Generator().manual_seed(4)
        weights, x = orthogonal(generator, NODES, 5, 1.5), vector(generator, 5)
        square = float(x.square().sum())
        for i, constant in enumerate(self.constants(narrow, weights, x)):
            assert constant > 1.1 * square * 1.5**i
