"""Scores to stand beside ours, from scikit-learn on the same split."""

import warnings

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]
"""Inputs `[examples, values]` and integer labels `[examples]`."""


def multilayer_perceptron(
    train: Arrays, test: Arrays, *, hidden: int, learning_rate: float, batch_size: int, epochs: int, seed: int
) -> dict[str, float]:
    """scikit-learn's network of the same size, optimised by its Adam for as many epochs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        (hidden,), alpha=0.0, learning_rate_init=learning_rate, batch_size=min(batch_size, len(train[1])),
        max_iter=epochs, n_iter_no_change=epochs, random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping after `epochs` is what was asked for
        model.fit(*train)
    loss = log_loss(test[1], model.predict_proba(test[0]), labels=model.classes_)
    return {"loss": float(loss), "accuracy": float(model.score(*test))}


def nearest_neighbour(train: Arrays, test: Arrays) -> dict[str, float]:
    """The label of the nearest training example; it gives no probabilities, hence no loss."""
    from sklearn.neighbors import KNeighborsClassifier

    return {"accuracy": float(KNeighborsClassifier(1).fit(*train).score(*test))}


def most_frequent(train: Arrays, test: Arrays) -> dict[str, float]:
    """Know nothing but how often each class comes: what any score must beat."""
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import log_loss

    model = DummyClassifier(strategy="prior").fit(*train)
    loss = log_loss(test[1], model.predict_proba(test[0]), labels=model.classes_)
    return {"loss": float(loss), "accuracy": float(model.score(*test))}
