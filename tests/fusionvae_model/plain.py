"""Log importance weights written out from the paper: one sample, one number of inputs, nothing shared with the package
but the layers."""

import torch
from torch import nn
from torch.distributions import Normal


def plain_log_weights(model, target, inputs, generator):
    """``log p(y | x, z) + log p(z | x) − log q(z | ·)``, ``[b]``, for one draw of every model with latent variables."""
    config = model.config
    of_target = model.encoder(target)
    of_inputs = [model.encoder(inputs[:, i]) for i in range(inputs.shape[1])]
    state = model.walk.h.expand(len(target), -1, -1, -1)
    total = torch.zeros(len(target), dtype=target.dtype)
    for l, group in enumerate(model.walk.groups):
        state = group.cells(state)
        u = group.project(state) if l > 0 else None
        q = gaussian(group.posterior_head, plus(posterior_features(config, [f[l] for f in of_inputs], of_target[l]), u))
        p = prior(config, group.prior_head, [f[l] for f in of_inputs], u) or Normal(torch.zeros_like(q.loc), 1.0)
        z = q.loc + q.scale * torch.randn(q.loc.shape, generator=generator, dtype=q.loc.dtype)
        total += (p.log_prob(z) - q.log_prob(z)).sum(dim=(1, 2, 3))
        state = group.join_latents(torch.cat([state, z], dim=1))
    logits = decoded(model, state, of_inputs)
    log_likelihood = target * nn.functional.logsigmoid(logits) + (1 - target) * nn.functional.logsigmoid(-logits)
    first = (config.image_size - config.nll_size) // 2
    scored = slice(first, first + config.nll_size)
    return total + log_likelihood[:, :, scored, scored].sum(dim=(1, 2, 3))


def plus(features, u):
    return features if u is None else features + u


def gaussian(head, features):
    mean, log_scale = (5 * torch.tanh(head(features) / 5)).chunk(2, dim=1)
    return Normal(mean, log_scale.exp() + 0.01)


def posterior_features(config, of_inputs, of_target):
    if config.posterior == "y":
        return of_target
    return together(config, [*of_inputs, of_target])


def together(config, features):
    stack = torch.stack(features)
    return stack.mean(dim=0) if config.aggregation.startswith("mean") else stack.max(dim=0).values


def prior(config, head, of_inputs, u):
    """``p_l``, or ``None`` where it is the standard normal."""
    if not of_inputs and u is None:
        return None
    joins_all = config.aggregation.endswith("all")
    if not of_inputs:
        elements = [u]
    elif joins_all and u is not None:
        elements = [*of_inputs, u]
    else:
        elements = [plus(f, u) for f in of_inputs]  # the same as adding once behind a maximum or a mean
    if not config.aggregation.startswith(("bayes", "pool")):
        return gaussian(head, nn.functional.elu(together(config, elements)))
    gaussians = [gaussian(head, nn.functional.elu(element)) for element in elements]
    return averaged(gaussians) if config.aggregation == "pool-add" else iterative_fusion(gaussians)


def averaged(gaussians):
    """The precision is the mean of the precisions, the mean that of the means, weighted by them."""
    precisions = [1 / one.scale.square() for one in gaussians]
    mean = sum(p * one.loc for p, one in zip(precisions, gaussians, strict=True)) / sum(precisions)
    return Normal(mean, (len(gaussians) / sum(precisions)).sqrt())


def iterative_fusion(gaussians):
    """Eqs. (6)–(7), the first as a division: one observation after the other."""
    mean, variance = gaussians[0].loc, gaussians[0].scale.square()
    for observation in gaussians[1:]:
        gain = variance / (variance + observation.scale.square())
        mean = mean + gain * (observation.loc - mean)
        variance = variance * (1 - gain)
    return Normal(mean, variance.sqrt())


def decoded(model, state, of_inputs):
    """Logits from the walk's last state; in CVAE+S the inputs' features join at the start of every resolution."""
    if model.config.kind == "fusionvae":
        cells, head = list(model.image_head.postprocess), model.image_head
    else:
        cells, head = [*model.decoder.cells, *model.decoder.image_head.postprocess], model.decoder.image_head
    shortcuts = {}
    if model.config.kind == "cvae-skip" and of_inputs:
        shortcuts = {f[0].shape[-1]: torch.stack(f).max(dim=0).values for f in zip(*of_inputs, strict=True)}
    for cell in [nn.Identity(), *cells]:
        state = cell(state)
        if state.shape[-1] in shortcuts:
            state = torch.stack([state, shortcuts.pop(state.shape[-1])]).max(dim=0).values
    return head.parameters_of_pixels(nn.functional.elu(state))
