# %% [markdown]
# # Lab: points around zero
#
# Read it beside the [chapter](../../book/standardise.md).

# %%
from course_utils.exercises import check, grade

# %% [markdown]
# ## Exercise 1: standardise
#
# Move each column to mean 0 and scale it to variance 1.
#
# <details><summary>Hint 1</summary>
#
# Which dimension of `x` is averaged over?
#
# </details>


# %% solution="standardise"
def standardise(x):
    """x (N, D) -> (N, D)."""
    ### BEGIN SOLUTION
    centred = x - x.mean(0)
    return centred / centred.square().mean(0).sqrt()
    ### END SOLUTION


# %% tests="standardise_test" points=1
check("standardise.standardise", standardise)
### BEGIN HIDDEN TESTS
grade("standardise.standardise", standardise)
### END HIDDEN TESTS

# %% [markdown]
# ## Question
#
# What would a sampler that starts from N(0, I) do to data that were not standardised?

# %% [markdown] essay="why_standardise" points=2
# One point each: the prior does not match the data's scale; the levels of the schedule are then too noisy or too clean.
