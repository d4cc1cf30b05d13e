"""The linear head of classify: a logistic regression on the model's last hidden state, fitted on labelled examples."""
